"""Where a record that ends before its target is confirmed may still cross."""

import pytest

from harness.analyse.crossing import locate
from harness.plan.target import Target


def record(metrics):
    return [{"examples": 512 * (i + 1), "validation": {"raw": {"accuracy": m}}} for i, m in enumerate(metrics)]


@pytest.mark.parametrize(
    ("metrics", "pending"),
    [
        ((0.5, 0.6, 0.7), None),
        ((0.5, 0.98, 0.7), None),
        ((0.5, 0.6, 0.98), 1536),
        ((0.5, 0.98, 0.98), 1024),  # one more such evaluation would have placed the crossing here
        ((0.98, 0.98), 512),
        ((0.98, 0.98, 0.98, 0.5), None),
        ((), None),
    ],
)
def test_a_target_held_at_the_end_but_not_confirmed_may_have_been_crossed_where_it_began(metrics, pending):
    """A stop is the earliest place at which a miss may still cross: not the last evaluation, with three to confirm."""
    found = locate(record(metrics), Target("accuracy", 0.97, "max", confirm=3), "raw")
    assert found.pending == pending
