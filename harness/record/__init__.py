"""The study folder: journals are the source of truth, everything else is a projection of them (P23)."""
