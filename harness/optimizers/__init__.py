"""Optimizers torch does not ship, and how parameters become groups."""
