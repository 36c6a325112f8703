"""Runs planned trials: in this process, or through Ray Tune over many GPUs and nodes."""
