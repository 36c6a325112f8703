"""Measures which total batch size and learning-rate rule to train with, and where a bigger batch stops paying."""

__version__ = "0.1.0"
