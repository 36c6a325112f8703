"""The study folder: journals are the source of truth, and everything else is derived from them (P23)."""
