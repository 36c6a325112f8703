"""Bisection of the exponent finds a positive hyper-parameter, also beyond the values it began with, and zero."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.plan.bisection import bisect_exponent
from harness.plan.errors import UserError

SMITH = [1e-3, 1e-4, 1e-5, 0.0]


def search(optimum: float, rounds: int, values: list[float] = SMITH):
    return bisect_exponent(values, lambda v: abs(math.log10(v / optimum)) if v else 10.0, rounds)


def test_a_round_asks_for_the_middle_of_the_exponents_and_one_step_beyond_an_edge():
    found = search(4e-4, 1)  # 1e-3 is nearer than 1e-4
    assert found.values[:4] == (1e-3, 1e-4, 1e-5, 0.0)
    assert found.values[4:] == pytest.approx((1e-2, 10**-3.5))  # a step beyond the largest, a middle below
    assert found.is_over


def test_nothing_is_asked_for_before_a_round_is_complete():
    known = {1e-3: 1.0, 1e-4: 0.5, 1e-5: 2.0}
    assert bisect_exponent(SMITH, known.get, 3).values == (1e-3, 1e-4, 1e-5, 0.0)
    assert bisect_exponent(SMITH, known.get, 3).best is None
    later = bisect_exponent(SMITH, {**known, 0.0: 3.0}.get, 3)
    assert later.values[4:] == pytest.approx((10**-3.5, 10**-4.5))
    assert not later.is_over


@given(st.floats(-8, 0), st.integers(2, 5))
def test_every_round_beyond_the_reach_of_the_edges_halves_the_distance(exponent, rounds):
    optimum = 10**exponent
    found = search(optimum, rounds + 6)
    assert found.best is not None
    assert abs(math.log10(found.best / optimum)) <= 0.5**rounds


def test_where_zero_is_best_it_looks_below_the_smallest_value():
    found = bisect_exponent(SMITH, lambda v: v, 2)
    assert found.best == 0
    assert found.values[4:] == pytest.approx((1e-6, 1e-7))


def test_a_best_value_at_the_top_is_flagged():
    assert bisect_exponent(SMITH, lambda v: -v, 0).at_edge
    assert bisect_exponent(SMITH, lambda v: -v, 2).values[4] == pytest.approx(1e-2)


def test_values_that_all_diverge_end_the_search():
    found = bisect_exponent(SMITH, lambda v: math.inf, 2)
    assert found.best is None


@pytest.mark.parametrize("values", [[1e-3], [0.0, 1e-3], [-1.0, 1e-3, 1e-4], [math.inf, 1e-3, 1e-4], []])
def test_values_that_cannot_begin_are_refused(values):
    with pytest.raises(UserError, match="at least two of them > 0"):
        bisect_exponent(values, lambda v: None, 1)
