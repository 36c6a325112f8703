"""What the tests of the trainer share."""

import pytest

from harness.train.worker import Worker


@pytest.fixture(scope="session")
def worker() -> Worker:
    """The one rank of W = 1 in this process, warm from test to test."""
    return Worker(0, 1, "cpu", 1)
