"""What a trial measures: each metric a state that takes batches, is exact over ranks and gives one number."""
