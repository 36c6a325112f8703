"""What a trial minimises and what it measures: losses as sums with a count, and metrics that are exact over ranks."""
