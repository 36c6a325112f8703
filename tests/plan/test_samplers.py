"""Samplers cover their space, extend without moving a point, and replay."""

import math
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.plan.errors import UserError
from harness.plan.samplers import Point, Space, bayesian, grid, random, sobol

SPACE = Space((0.01, 1.0), (16, 64, 256), (0.8, 0.99))


def bowl(point: Point) -> float:
    """Best at LR 0.1, TBS 64, momentum 0.95."""
    assert point.momentum is not None
    return (
        math.log10(point.lr / 0.1) ** 2
        + math.log2(point.total_batch_size / 64) ** 2 / 4
        + math.log10((1 - point.momentum) / 0.05) ** 2
    )


@pytest.mark.parametrize("draw", [random, sobol])
@given(n=st.integers(1, 70), more=st.integers(0, 70), seed=st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_point_i_never_changes_when_more_are_asked_for(draw, n, more, seed):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert draw(SPACE, n, seed) == draw(SPACE, n + more, seed)[:n]


@pytest.mark.parametrize("draw", [random, sobol])
def test_points_lie_in_the_space_and_seeds_differ(draw):
    points = draw(SPACE, 64, 0)
    assert all(0.01 <= p.lr <= 1 and p.total_batch_size in (16, 64, 256) for p in points)
    assert all(p.momentum is not None and 0.8 <= p.momentum <= 0.99 for p in points)
    assert points != draw(SPACE, 64, 1)


def test_sobol_points_are_even_where_random_ones_are_not():
    eighths = [int(8 * math.log10(p.lr / 0.01) / 2) for p in sobol(SPACE, 64, 3)]
    assert [eighths.count(i) for i in range(8)] == [8] * 8
    drawn = [int(8 * math.log10(p.lr / 0.01) / 2) for p in random(SPACE, 64, 3)]
    assert [drawn.count(i) for i in range(8)] != [8] * 8


def test_the_grid_is_every_combination_with_its_ends():
    points = grid(SPACE, 3, 2)
    assert len(set(points)) == 3 * 3 * 2
    assert {round(p.lr, 9) for p in points} == {0.01, 0.1, 1.0}
    assert {round(p.momentum or 0, 9) for p in points} == {0.8, 0.99}
    assert {p.momentum for p in grid(Space((0.01, 1.0), (16,), None), 3, 2)} == {None}


def test_a_bayesian_search_replays_and_beats_random_points():
    points, is_over = bayesian(SPACE, 32, 0, bowl, 4)
    assert is_over
    assert bayesian(SPACE, 32, 0, bowl, 4) == (points, True)
    assert bayesian(SPACE, 16, 0, bowl, 4)[0] == points[:16]
    late = [bowl(point) for point in points[16:]]
    drawn = [bowl(point) for point in random(SPACE, 16, 0)]
    assert sum(late) < sum(drawn)


def test_a_bayesian_search_waits_for_its_round():
    first, _ = bayesian(SPACE, 12, 0, lambda point: None, 4)
    assert len(first) == 4
    known = {point: bowl(point) for point in first[:3]}
    assert bayesian(SPACE, 12, 0, known.get, 4) == (first, False)


@pytest.mark.parametrize(
    "arguments",
    [((1.0, 0.1), (16,), None), ((0.1, 1.0), (), None), ((0.1, 1.0), (16,), (0.9, 1.0)), ((0.0, 1.0), (16,), None)],
)
def test_a_space_that_is_none_is_refused(arguments):
    with pytest.raises(UserError, match="question"):
        Space(*arguments)
