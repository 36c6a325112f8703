"""Data sets. Each is a class whose `load()` returns Splits; training examples are addressed by index."""
