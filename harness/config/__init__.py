"""Composition of conf/ into typed values; the only package that uses Hydra."""
