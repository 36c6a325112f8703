"""Where the target costs twice the data: by hand, at the edges, and by simulation over shapes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.decision import SHAPES, observed, rise_coverage
from harness.plan.outcome import Outcome
from harness.statistics.doubling import BY_NEIGHBOURS, BY_TESTS, Status, cost_rise
from harness.statistics.estimates import Observation

SIZES = (16, 32, 64, 128, 256, 512)
DIVERGED = Observation(Outcome.DIVERGED, math.inf, math.nan)


def missed(stop):
    return Observation(Outcome.CENSORED, math.inf, float(stop))


def met_by(first):
    return Observation(Outcome.REACHED, first, 0.0)


def sweep(costs, spread=0.02):
    """Three seeds an arm at log distances -spread, 0 and +spread."""
    return {b: observed(cost * np.exp([-spread, 0.0, spread])) for b, cost in zip(SIZES, costs, strict=False)}


def test_the_ends_are_arms_and_the_point_is_log_linear_between_them():
    found = cost_rise(sweep([4, 4.4, 5, 6, 12, 30]))
    assert (found.low, found.high, found.status) == (128, 256, Status.BETWEEN)
    assert found.value == pytest.approx(128 * 2 ** (math.log(8 / 6) / math.log(12 / 6)))
    assert (found.reference, found.is_cheapest, found.factor) == (16, True, 2.0)
    assert (found.coverage, found.method) == (0.95, BY_TESTS)


def test_the_reference_is_the_cheapest_arm_wherever_it_is():
    found = cost_rise(sweep([12, 8, 4, 5, 6, 12]))
    assert (found.reference, found.low, found.high) == (64, 256, 512)


def test_an_arm_near_the_factor_belongs_to_neither_end():
    found = cost_rise(sweep([4, 4.4, 5, 7.9, 12, 30], spread=0.1))
    assert (found.low, found.high) == (64, 256)
    assert 64 < found.value < 256


@pytest.mark.parametrize("costs", [(12, 10, 8, 6, 5, 4), (4, 4, 4, 4, 4, 4), (4, 4.2, 4.4, 4.6, 4.8, 5)])
def test_a_curve_that_does_not_rise_by_the_factor_is_not_within_the_sweep(costs):
    found = cost_rise(sweep(costs))
    assert found.status is Status.NOT_IN_SWEEP
    assert (found.low, found.high) == (512, math.inf)
    assert math.isnan(found.value)


def test_noise_that_shows_nothing_says_so():
    found = cost_rise(sweep([4, 4.4, 5, 6, 7, 8], spread=2.0))
    assert (found.low, found.high, found.status) == (0.0, math.inf, Status.NOT_SHOWN)


def test_a_missed_arm_is_above_its_stop_and_no_more():
    rising = sweep([4, 4.4, 5, 6])
    far = cost_rise({**rising, 256: [missed(20)] * 3})
    assert (far.low, far.high, far.status) == (128, 256, Status.BETWEEN)
    near = cost_rise({**rising, 256: [missed(7)] * 3})
    assert (near.low, near.high, near.status) == (128, math.inf, Status.AT_LEAST)
    assert math.isnan(near.value)
    diverged = cost_rise({**rising, 256: [DIVERGED] * 3})
    assert (diverged.low, diverged.high) == (128, 256)
    assert 128 < diverged.value <= 256


def test_an_arm_cut_early_may_be_the_cheapest():
    """Stopped at 1: whether the others cost less than twice as much is unknown."""
    found = cost_rise({**sweep([4, 4.4, 5]), 128: [missed(1)] * 3})
    assert found.low == 0


def test_an_arm_that_met_the_target_at_its_first_evaluation_may_cost_any_less():
    """At most 4: 12 is above twice that for sure, but 6 may be as well."""
    at_first = [met_by(4.0)] * 3
    found = cost_rise({**sweep([4, 4, 6, 12, 30]), 16: at_first, 32: at_first})
    assert (found.low, found.high, found.status) == (0.0, 128, Status.AT_MOST)
    assert math.isnan(found.value)
    late = cost_rise({**sweep([4, 4.4, 5, 6, 30]), 256: [met_by(30.0)] * 3})
    assert (late.low, late.high) == (0.0, math.inf)  # TBS 256 may be the cheapest, and is not shown to cost more
    asked = cost_rise({**sweep([4, 4.4, 5, 9, 30]), 16: at_first}, reference=16)
    assert (asked.low, asked.high, asked.status) == (0.0, 128, Status.AT_MOST)
    one_each = {b: observed([cost]) for b, cost in zip(SIZES, [4, 5, 12], strict=False)}
    assert cost_rise({**one_each, 16: [met_by(4.0)]}).status is Status.AT_MOST


def test_factor_and_reference_can_be_asked_for():
    arms = sweep([4, 4.4, 5, 6, 12, 30])
    found = cost_rise(arms, 1.2, 32)
    assert (found.low, found.high, found.reference, found.is_cheapest) == (64, 128, 32, False)
    between = cost_rise(arms, 1.2, 45.25)  # half-way between 32 and 64 in log: 4.69, so 5.63
    assert between.value == pytest.approx(
        64 * 2 ** (math.log(1.2 * math.sqrt(4.4 * 5) / 5) / math.log(6 / 5)), rel=1e-3
    )
    assert (between.low, between.high) == (64, 128)
    assert cost_rise(arms, 2, 512).status is Status.NOT_IN_SWEEP


def test_one_number_an_arm_gives_the_neighbouring_arms_as_bracket():
    found = cost_rise({b: observed([cost]) for b, cost in zip(SIZES, [4, 4.4, 5, 6, 12, 30], strict=True)})
    assert (found.low, found.high, found.method, found.status) == (128, 256, BY_NEIGHBOURS, Status.BETWEEN)
    assert math.isnan(found.coverage)
    flat = cost_rise({b: observed([4.0]) for b in SIZES})
    assert (flat.status, flat.low, flat.high) == (Status.NOT_IN_SWEEP, 512, math.inf)
    cut = cost_rise({16: observed([4.0]), 32: observed([4.1]), 64: [missed(5)]})
    assert (cut.status, cut.low, cut.high) == (Status.AT_LEAST, 32, math.inf)


def test_requests_outside_the_sweep_are_rejected_with_the_range():
    arms = sweep([4, 5, 6])
    with pytest.raises(ValueError, match="16 to 64, not 8"):
        cost_rise(arms, 1.2, 8)
    with pytest.raises(ValueError, match="must be > 1, not 1"):
        cost_rise(arms, 1.0)


@pytest.mark.parametrize("arms", [{}, {16: []}, {16: [missed(9)] * 3, 32: [DIVERGED]}])
def test_without_an_arm_that_reached_nothing_is_shown(arms):
    found = cost_rise(arms)
    assert (found.status, found.low, found.high) == (Status.NOT_SHOWN, 0.0, math.inf)


def test_a_reference_with_a_miss_is_not_a_reference():
    arms = {**sweep([4, 5, 6, 12]), 32: [*observed([5.0, 5.1]), missed(40)]}
    assert cost_rise(arms, 2, 32).status is Status.NOT_SHOWN


trial = st.one_of(
    st.floats(0.5, 50).map(lambda place: observed([place], 0.5)[0]),
    st.floats(0.0, 50).map(missed),
    st.floats(0.0, 50).map(met_by),
    st.just(DIVERGED),
)


@given(st.lists(st.lists(trial, max_size=4), max_size=5), st.sampled_from([1.2, 2.0]))
def test_the_ends_never_cross_and_the_point_lies_between_them(values, factor):
    found = cost_rise(dict(zip(SIZES, values, strict=False)), factor)
    assert found.low < found.high
    assert math.isnan(found.value) or found.low <= found.value <= found.high
    assert found.low < math.inf
    assert (found.status in (Status.BETWEEN, Status.AT_MOST)) == (found.high < math.inf)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seeds", [3, 5])
def test_the_bracket_holds_the_truth_under_every_shape(shape, seeds):
    for factor in (1.2, 2.0):
        assert rise_coverage(shape, seeds, cv=0.2, factor=factor, simulations=120).share >= 0.97
