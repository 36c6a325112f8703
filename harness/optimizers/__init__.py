"""Optimizers that torch does not have, and how parameters become groups."""
