"""Runs planned trials: in this process, or through Ray Tune on many GPUs and nodes."""
