"""Property tests draw the same examples on every machine and are not judged by its speed."""

from hypothesis import settings

settings.register_profile("harness", deadline=None, derandomize=True, database=None)
settings.load_profile("harness")
