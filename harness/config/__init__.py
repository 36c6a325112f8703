"""Composition of conf/ into typed values; the only room that knows Hydra."""
