"""A training script of the user's as a trial: what it reports about itself, read while it runs."""
