"""One arm: counts, reach rate, quantiles, pooled spread. Exact numbers are textbook values or worked by hand."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.plan.outcome import Outcome
from harness.statistics.estimates import (
    Interval,
    Observation,
    PooledSpread,
    count_outcomes,
    inverted_cdf,
    median_estimate,
    median_of,
    order_statistic_ranks,
    pooled_log_spread,
    quantile_estimate,
    range_coverage,
    reach_rate,
)


def reached(value, width=0.0):
    return Observation(Outcome.REACHED, value, value - width)


def censored(stop=40.0):
    return Observation(Outcome.CENSORED, math.inf, stop)


def dominated(stop):
    return Observation(Outcome.DOMINATED, math.inf, stop)


DIVERGED = Observation(Outcome.DIVERGED, math.inf, math.nan)
FAILED = Observation(Outcome.FAILED, math.nan, math.nan)
NOWHERE = Observation(Outcome.REACHED, math.nan, math.nan)  # says it reached, nobody knows where

any_observation = st.one_of(
    st.floats(0.1, 1e6).map(reached),
    st.floats(1.0, 1e6).map(lambda value: reached(value, 0.5)),
    st.floats(0.0, 1e6).map(censored),
    st.floats(0.0, 1e6).map(dominated),
    st.sampled_from([DIVERGED, FAILED, NOWHERE, censored(math.nan), reached(-1.0), reached(math.inf), reached(0.0)]),
)


def test_every_trial_is_counted_once_and_failed_ones_are_not_in_n():
    counts = count_outcomes([reached(3), censored(), dominated(2), DIVERGED, FAILED, FAILED])
    assert asdict(counts) == {"reached": 1, "missed": 1, "dominated": 1, "diverged": 1, "failed": 2}
    assert counts.n == 4


def test_a_trial_that_reached_nowhere_known_is_a_miss_everywhere():
    arm = [reached(3), NOWHERE]
    assert count_outcomes(arm).missed == 1
    assert reach_rate(arm).rate == 0.5
    assert quantile_estimate(arm, 0.9).value == math.inf


def test_reach_rate_has_the_textbook_intervals():
    """Clopper-Pearson and Wilson of 55 in 80 (NanoGPT's hit rate) as scipy computes them."""
    rate = reach_rate([reached(1)] * 55 + [censored()] * 25)
    for interval, method in ((rate.interval, "exact"), (rate.wilson, "wilson")):
        expected = stats.binomtest(55, 80).proportion_ci(method=method)
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert rate.rate == 55 / 80


def test_no_miss_in_five_still_allows_a_rate_of_one_half():
    assert reach_rate([reached(1)] * 5).interval.low == pytest.approx(0.025 ** (1 / 5))
    assert reach_rate([reached(1)] * 5).interval.high == 1.0


def test_a_dominated_trial_counts_against_the_rate_but_not_against_its_upper_end():
    with_one = reach_rate([reached(1)] * 4 + [dominated(2)])
    assert with_one.rate == 0.8
    assert with_one.interval.high == 1.0
    assert with_one.interval.low == reach_rate([reached(1)] * 4 + [censored()]).interval.low


def test_quantiles_but_the_median_never_average_two_trials():
    assert inverted_cdf([1.0, 2.0, 3.0, math.inf], 0.5) == 2.0
    assert inverted_cdf([1.0, 2.0, math.inf, math.inf], 0.75) == math.inf
    assert inverted_cdf(list(map(float, range(1, 11))), 0.7) == 7.0  # 0.7 * 10 > 7 in floating point


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=40), st.floats(0.01, 0.99))
def test_inverted_cdf_is_numpys_definition(values, quantile):
    rank = len(values) * quantile
    if abs(rank - round(rank)) > 1e-6:
        assert inverted_cdf(sorted(values), quantile) == np.quantile(values, quantile, method="inverted_cdf")


def test_misses_and_divergence_are_infinity_in_the_median():
    assert median_estimate([reached(3), reached(4), censored()]).value == 4
    assert median_estimate([reached(3), censored(), DIVERGED]).value == math.inf
    assert median_estimate([reached(3), FAILED, FAILED]).value == 3


def test_the_median_of_an_even_number_is_the_geometric_mean_of_the_middle_two():
    """One failed seed of five must not make an arm look faster: 8, 8.5, 9, 10 is 8.75, not 8.5."""
    assert median_estimate(map(reached, (8, 8.5, 9, 10))).value == pytest.approx(math.sqrt(8.5 * 9))
    assert median_estimate(map(reached, (2, 8))).value == pytest.approx(4)
    assert median_estimate([reached(4), reached(4)]).value == 4
    assert median_of([0.0, 9.0]) == 0
    assert math.isnan(median_of([]))


def test_an_even_median_whose_upper_half_missed_is_at_least_the_lower():
    found = median_estimate([reached(3), reached(4), censored(40), DIVERGED])
    assert (found.value, found.at_least) == (math.inf, 4)
    assert found.interval.high == math.inf
    assert median_estimate([reached(4), dominated(5), reached(9), reached(9)]).at_least == pytest.approx(math.sqrt(45))


def test_the_median_is_unbiased_on_the_log_for_even_and_odd_numbers_alike():
    """The lower of two middle places is 4 to 11 % too small at n = 4 and cv 20 %."""
    rng = np.random.default_rng(0)
    for n in (3, 4, 5, 6):
        logs = 0.2 * rng.standard_normal((3000, n))
        found = [math.log(median_estimate(map(reached, np.exp(row))).value) for row in logs]
        assert np.mean(found) == pytest.approx(0, abs=0.008)


def test_a_median_among_misses_is_at_least_the_cap():
    estimate = median_estimate([reached(3), censored(40), censored(40)])
    assert (estimate.value, estimate.at_least) == (math.inf, 40)
    assert estimate.interval == Interval(3, math.inf, 0.75, "range")
    diverged = median_estimate([DIVERGED] * 3)
    assert (diverged.value, diverged.at_least, diverged.interval.low) == (math.inf, math.inf, math.inf)


def test_a_dominated_trial_may_hide_a_smaller_median():
    """Stopped at 5 because others were ahead: its crossing is unknown beyond 5, and the low end must allow for that."""
    estimate = median_estimate([reached(4), reached(8), dominated(5)])
    assert (estimate.value, estimate.at_least) == (8, 5)
    six = median_estimate([dominated(2), *map(reached, (4, 5, 6, 7, 8))])
    assert six.interval.low == 2


@pytest.mark.parametrize(
    ("n", "ranks"), [(6, (1, 6)), (7, (1, 7)), (8, (1, 8)), (9, (2, 8)), (10, (2, 9)), (20, (6, 15))]
)
def test_order_statistic_ranks_of_the_median_are_the_sign_tests(n, ranks):
    """Hahn and Meeker, Statistical Intervals: the ranks and coverages of a 95 % interval for the median."""
    low, high, coverage = order_statistic_ranks(n, 0.5)
    assert (low, high) == ranks
    assert coverage == pytest.approx(1 - 2 * stats.binom.cdf(low - 1, n, 0.5))


def test_six_trials_are_the_fewest_for_order_statistics_of_a_median():
    assert order_statistic_ranks(5, 0.5)[2] == 0.0
    assert median_estimate(list(map(reached, range(1, 7)))).interval.label == "order statistics 97 %"


@given(st.integers(1, 200), st.floats(0.05, 0.95))
def test_order_statistics_promise_at_least_95_percent_or_nothing(n, quantile):
    low, high, coverage = order_statistic_ranks(n, quantile)
    assert coverage == 0 or (coverage >= 0.95 and 1 <= low < high <= n)


def test_the_range_says_its_true_coverage():
    assert [range_coverage(n, 0.5) for n in (1, 2, 3, 4, 5)] == [0, 0.5, 0.75, 0.875, 0.9375]
    assert range_coverage(3, 0.9) == pytest.approx(0.27)
    assert median_estimate([reached(3), reached(4), reached(9)]).interval.label == "range 75 %"


def test_small_arms_borrow_the_spread_of_the_others():
    """Student's t on log with the pooled sd, by hand."""
    arm = [reached(8), reached(9), reached(10)]
    spread = PooledSpread(0.1, 20, 0.5, 8)
    interval = median_estimate(arm, spread).interval
    half = stats.t.ppf(0.975, 20) * 0.1 / math.sqrt(3)
    centre = np.mean(np.log([8, 9, 10]))
    assert (interval.low, interval.high) == pytest.approx((math.exp(centre - half), math.exp(centre + half)))
    assert interval.label == "pooled t on log 95 %"


def test_one_run_has_no_interval_even_with_the_spread_of_other_arms():
    for spread in (None, PooledSpread(0.1, 20, 0.5, 8)):
        found = median_estimate([reached(3, 0.5)], spread)
        assert (found.value, found.interval.label) == (3, "no interval from one run")
        assert found.interval.is_everything


def test_a_target_met_at_the_first_evaluation_has_no_lower_end():
    """All five at 0.25, evaluated every 0.25: somewhere in (0, 0.25], not "0.25-0.25"."""
    spread = pooled_log_spread([[reached(v, 0.25) for v in (8, 9, 10)]])
    for n in (2, 5, 10):
        interval = median_estimate([reached(0.25, 0.25)] * n, spread).interval
        assert (interval.low, interval.high) == (0, 0.25)
    assert median_estimate([reached(0.25, 0.25)] * 4 + [reached(0.5, 0.25)]).interval.low == 0


def test_an_arm_that_crossed_at_one_evaluation_is_known_to_its_bracket():
    assert median_estimate([reached(8.0, 0.5)] * 5).interval == Interval(7.5, 8.0, 0.9375, "range")
    assert median_estimate([reached(8.0, 0.5)] * 4 + [reached(8.5, 0.5)]).interval.low == 8


def test_a_target_met_before_training_is_reached_at_once():
    """Place 0 is a crossing, not a miss; it has no logarithm, so that nothing is said of its ratio to others."""
    at_once = Observation(Outcome.REACHED, 0.0, 0.0)
    found = median_estimate([at_once] * 5)
    assert (found.value, found.reached, found.interval.high) == (0, 5, 0)
    assert count_outcomes([at_once]).reached == 1
    assert not at_once.has_log
    assert pooled_log_spread([[at_once, reached(3)]]).arms == 0


def test_the_90th_percentile_of_a_small_arm_has_the_interval_of_a_tolerance_limit():
    """P(upper end > 90th percentile) = 97.5 %: the one-sided tolerance factor k = t'(0.975; z sqrt n) / sqrt n."""
    arm, spread = [reached(8), reached(9), reached(10)], PooledSpread(0.1, 20, 0.5, 8)
    interval = quantile_estimate(arm, 0.9, spread).interval
    shift = stats.norm.ppf(0.9) * math.sqrt(3)
    factor = stats.nct.ppf(0.975, 20, shift) / math.sqrt(3)
    assert interval.high == pytest.approx(math.exp(np.mean(np.log([8, 9, 10])) + factor * 0.1))


@pytest.mark.parametrize(
    "spread",
    [PooledSpread(0.1, 20, 0.01, 8), PooledSpread(math.nan, 0, math.nan, 0), PooledSpread(1e-6, 20, 0.5, 8)],
    ids=["unequal variances", "no replicates", "contradicted by this arm"],
)
def test_a_spread_that_does_not_describe_the_arm_is_not_used(spread):
    assert median_estimate([reached(8), reached(8.1), reached(12)], spread).interval.method == "range"


def test_a_miss_rules_the_pooled_interval_out():
    spread = PooledSpread(0.1, 20, 0.5, 8)
    assert median_estimate([reached(8), reached(9), censored()], spread).interval.method == "range"


def test_a_coarse_grid_widens_the_pooled_interval_by_half_a_bracket_at_each_end():
    spread = PooledSpread(0.0, 20, 1.0, 8)
    interval = median_estimate([reached(4.0, 0.5)] * 3, spread).interval
    assert (interval.low, interval.high) == pytest.approx((3.75, 4.25))


def test_pooled_spread_is_the_root_of_the_summed_squares():
    arms = [[reached(v) for v in (8, 9, 10)], [reached(v) for v in (20, 25)], [reached(3)]]
    squares = [np.sum((np.log(a) - np.mean(np.log(a))) ** 2) for a in ([8, 9, 10], [20, 25])]
    spread = pooled_log_spread(arms)
    assert spread.sd == pytest.approx(math.sqrt(sum(squares) / 3))
    assert (spread.degrees_of_freedom, spread.arms) == (3, 2)


def test_homogeneity_is_bartletts_test():
    rng = np.random.default_rng(0)
    logs = [rng.normal(0, sd, 8) for sd in (0.1, 0.1, 0.3)]
    spread = pooled_log_spread([[reached(math.exp(x)) for x in arm] for arm in logs])
    assert spread.homogeneous_p == pytest.approx(stats.bartlett(*logs).pvalue)
    assert not spread.homogeneous


def test_an_arm_with_a_miss_does_not_enter_the_pooled_spread():
    """Its fastest trials alone would understate the spread."""
    full = [reached(v) for v in (8, 10, 12)]
    assert pooled_log_spread([full, [reached(9), reached(9), censored()]]) == pooled_log_spread([full])


def test_ties_on_the_evaluation_grid_are_not_evidence_of_unequal_variances():
    on_grid = [[reached(v, 1.0) for v in (8, 8, 8)], [reached(v, 1.0) for v in (8, 9, 8)]]
    assert pooled_log_spread(on_grid).homogeneous
    exact = [[reached(v) for v in (8, 8, 8)], [reached(v) for v in (8, 9, 8)]]
    assert not pooled_log_spread(exact).homogeneous


@given(st.lists(any_observation, max_size=12), st.sampled_from([0.25, 0.5, 0.75, 0.9]), st.booleans())
def test_whatever_the_trials_the_numbers_are_honest(trials, quantile, with_spread):
    """Never raises or warns; n = 0 says nothing; value and certainty are ordered; all of it is JSON."""
    spread = pooled_log_spread([trials, list(map(reached, (8, 9, 10)))]) if with_spread else None
    estimate = quantile_estimate(trials, quantile, spread)
    rate = reach_rate(trials)
    assert estimate.n == rate.n == sum(trial.outcome is not Outcome.FAILED for trial in trials)
    assert 0 <= rate.interval.low <= rate.interval.high <= 1
    if estimate.n:
        assert estimate.at_least <= estimate.value
        assert estimate.interval.low <= estimate.interval.high
        assert estimate.value in estimate.interval or estimate.value > estimate.at_least
        assert estimate.reached == estimate.n or estimate.interval.method != "pooled t on log"
    else:
        assert math.isnan(estimate.value)
        assert estimate.interval.label == "no data"
    json.dumps([asdict(estimate), asdict(rate)])


@given(st.lists(st.floats(0.5, 1e3).map(reached), min_size=1, max_size=9), st.floats(1e-2, 1e3))
def test_a_change_of_unit_changes_nothing_but_the_unit(arm, unit):
    """Epochs, examples or steps: same ranks, same ratios."""
    other = [reached(o.value * unit) for o in arm]
    here = median_estimate(arm, pooled_log_spread([arm]))
    there = median_estimate(other, pooled_log_spread([other]))
    assert there.interval.method == here.interval.method
    assert there.value == pytest.approx(here.value * unit)
    assert there.interval.high == pytest.approx(here.interval.high * unit)
