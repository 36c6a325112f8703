"""Kaplan-Meier and the restricted mean: textbook values, and what each kind of miss does to them."""

import json
import math
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.plan.outcome import Outcome
from harness.statistics.estimates import Observation
from harness.statistics.survival import reach_curve, restricted_mean


def reached(value):
    return Observation(Outcome.REACHED, float(value), float(value))


def censored(stop):
    return Observation(Outcome.CENSORED, math.inf, float(stop))


def dominated(stop):
    return Observation(Outcome.DOMINATED, math.inf, float(stop))


DIVERGED = Observation(Outcome.DIVERGED, math.inf, math.nan)

# Freireich et al. 1963, 6-MP arm: weeks of remission in 21 patients, the example of every survival textbook.
REMISSION = [
    *map(reached, (6, 6, 6, 7, 10, 13, 16, 22, 23)),
    *map(censored, (6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35)),
]


def test_freireichs_remission_times_give_the_textbook_curve():
    """Klein and Moeschberger, table 4.1: shares .857 .807 .753 .690 .627 .538 .448, median 23 weeks."""
    curve = reach_curve(REMISSION)
    assert curve.places == (6, 7, 10, 13, 16, 22, 23)
    surviving = [1 - share for share in curve.reached_share]
    assert surviving == pytest.approx([0.857, 0.807, 0.753, 0.690, 0.627, 0.538, 0.448], abs=5e-4)
    assert curve.median == 23
    assert (curve.n, curve.censored) == (21, 12)


def test_the_log_log_band_of_the_remission_times():
    """At 10 weeks: S = .753, s.e. .0963, log-log interval .5032 to .8894 (Klein and Moeschberger, section 4.3)."""
    curve = reach_curve(REMISSION)
    at_ten = curve.places.index(10)
    assert 1 - curve.high[at_ten] == pytest.approx(0.5032, abs=1e-3)
    assert 1 - curve.low[at_ten] == pytest.approx(0.8894, abs=1e-3)


def test_under_one_common_budget_the_curve_is_the_plain_share():
    curve = reach_curve([reached(3), reached(4), reached(4), censored(40), censored(40)])
    assert curve.reached_share == pytest.approx((0.2, 0.6))
    assert curve.median == 4


def test_a_shorter_budget_is_used_for_as_long_as_it_lasted():
    """One of two was stopped at 2 before the other reached at 3: among those watched at 3, all reached."""
    assert reach_curve([reached(3), censored(2)]).reached_share == (1.0,)


@pytest.mark.parametrize("never", [DIVERGED, dominated(2)], ids=["diverged", "dominated"])
def test_a_diverged_or_dominated_trial_is_not_censored_but_never_reaches(never):
    assert reach_curve([reached(3), never]).reached_share == (0.5,)


def test_without_a_trial_that_reached_there_is_no_curve():
    assert reach_curve([censored(40), DIVERGED]).median == math.inf
    assert math.isnan(reach_curve([]).median)


def test_every_miss_costs_the_cap_in_the_restricted_mean():
    result = restricted_mean([reached(10), reached(20), censored(40), DIVERGED, dominated(5)], cap=40)
    assert result.mean == pytest.approx((10 + 20 + 3 * 40) / 5)
    assert (result.n, result.missed, result.cap) == (5, 3, 40)


def test_a_budget_that_ended_early_is_censored_and_the_mean_stays_within_the_data():
    """Area under Kaplan and Meier's curve: 1 until 10, 2/3 until 35, where the last one watched crossed."""
    result = restricted_mean([reached(10), reached(35), censored(30)], cap=40)
    assert (result.cap, result.missed) == (40, 1)
    assert result.mean == pytest.approx(10 + 25 * 2 / 3)
    early = restricted_mean([reached(8), reached(9), censored(2)], cap=40)
    assert early.mean == pytest.approx(8.5)  # not 2, where no trial had crossed
    assert early.interval.low < 8.5 < early.interval.high


def test_a_budget_that_ended_after_every_crossing_lowers_the_cap():
    result = restricted_mean([reached(10), reached(20), censored(30)], cap=40)
    assert (result.cap, result.mean) == (30, pytest.approx(20))


def test_one_run_has_a_mean_but_no_interval():
    result = restricted_mean([reached(10)], cap=40)
    assert (result.mean, result.interval.label) == (10, "no interval from one run")
    assert (result.interval.low, result.interval.high) == (0, 40)


def test_a_target_met_before_training_has_a_curve_and_a_mean():
    assert restricted_mean([reached(0), reached(0)], cap=40).mean == 0
    assert reach_curve([reached(0), censored(0), DIVERGED]).reached_share == pytest.approx((1 / 3,))


def test_five_misses_of_five_do_not_make_a_mean_certain():
    result = restricted_mean([censored(40)] * 5, cap=40)
    assert result.mean == 40
    assert result.interval.low == pytest.approx(40 * 0.0125 ** (1 / 5))  # at least that share misses
    assert result.interval.high == 40


def test_five_successes_of_five_do_not_exclude_a_miss():
    result = restricted_mean([reached(v) for v in (8, 9, 10, 9, 9)], cap=40)
    assert result.interval.low < 9 < 20 < result.interval.high


@given(
    st.lists(
        st.one_of(
            st.floats(0.1, 1e6).map(reached),
            st.floats(0, 1e6).map(censored),
            st.floats(0, 1e6).map(dominated),
            st.sampled_from([DIVERGED, censored(math.nan), Observation(Outcome.FAILED, math.nan, 0.0)]),
        ),
        max_size=12,
    ),
    st.floats(1.0, 1e6),
)
def test_whatever_the_trials_shares_and_means_stay_in_bounds(trials, cap):
    curve, mean = reach_curve(trials), restricted_mean(trials, cap)
    for low, share, high in zip(curve.low, curve.reached_share, curve.high, strict=True):
        assert 0 <= low <= share + 1e-9
        assert share - 1e-9 <= high <= 1
    assert list(curve.places) == sorted(set(curve.places))
    if mean.n:
        assert 0 <= mean.interval.low <= mean.mean + 1e-9
        assert mean.mean - 1e-9 <= mean.interval.high <= max(mean.cap, mean.mean) + 1e-9
    json.dumps([asdict(curve), asdict(mean)])
