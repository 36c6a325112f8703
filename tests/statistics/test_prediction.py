"""What to budget for one more run: a bound that nine of ten runs keep, and honesty where the trials give none."""

import math

import numpy as np
import pytest
from scipy import stats

from harness.plan.outcome import Outcome
from harness.statistics.estimates import Observation, PooledSpread, pooled_log_spread
from harness.statistics.prediction import prediction_bound


def reached(value, width=0.0):
    return Observation(Outcome.REACHED, float(value), float(value) - width)


def censored(stop):
    return Observation(Outcome.CENSORED, math.inf, float(stop))


DIVERGED = Observation(Outcome.DIVERGED, math.inf, 2.0)


def test_the_bound_is_students_for_one_new_value():
    arm, spread = [reached(v) for v in (8, 9, 10)], PooledSpread(0.1, 20, 0.5, 8)
    half = stats.t.ppf(0.9, 20) * 0.1 * math.sqrt(1 + 1 / 3)
    found = prediction_bound(arm, spread)
    assert found.value == pytest.approx(stats.gmean([8, 9, 10]) * math.exp(half))
    assert found.method == "prediction bound 90 %, pooled spread"
    own = np.std(np.log([8, 9, 10]), ddof=1)
    alone = stats.gmean([8, 9, 10]) * math.exp(stats.t.ppf(0.9, 2) * own * math.sqrt(4 / 3))
    assert prediction_bound(arm).value == pytest.approx(alone)


def test_an_arm_that_is_noisier_than_the_others_keeps_its_own_spread():
    noisy, spread = [reached(v) for v in (6, 9, 14)], PooledSpread(0.05, 20, 0.5, 8)
    assert prediction_bound(noisy, spread) == prediction_bound(noisy)
    assert prediction_bound(noisy, PooledSpread(0.05, 20, 0.01, 8)).method.endswith("own spread")


@pytest.mark.parametrize("grid", [0.0, 0.5])
def test_one_new_run_in_ten_lies_above_the_bound(grid):
    """The largest of three is exceeded by a quarter of new runs."""

    def places(rng, n, median=8.0):
        exact = median * np.exp(0.15 * rng.standard_normal(n))
        return np.ceil(exact / grid) * grid if grid else exact

    rng, above = np.random.default_rng(0), []
    for _ in range(1500):
        arms = [[reached(v, grid) for v in places(rng, 3, median)] for median in (8, 6, 12, 20)]
        bound = prediction_bound(arms[0], pooled_log_spread(arms)).value
        above.append(places(rng, 1)[0] > bound)
    assert np.mean(above) == pytest.approx(0.1, abs=0.025)


def test_a_miss_leaves_no_bound_but_what_it_exceeds():
    found = prediction_bound([reached(8), reached(9), reached(10), reached(9), censored(40)])
    assert (found.value, found.at_least, found.method) == (math.inf, 40, "no bound: 4 of 5 reached")
    assert prediction_bound([reached(8), DIVERGED]).at_least == math.inf
    many = prediction_bound([*(reached(v) for v in range(1, 20)), censored(40)])
    assert (many.value, many.method) == (19, "prediction bound 90 %, order statistic")


def test_one_run_has_a_bound_only_where_other_arms_show_its_spread():
    assert prediction_bound([reached(8)]).method == "no bound from one run"
    assert (prediction_bound([reached(8)]).value, prediction_bound([reached(8)]).at_least) == (math.inf, 8)
    assert prediction_bound([reached(8)], PooledSpread(0.1, 20, 0.5, 8)).value > 8
    assert prediction_bound([reached(8)] * 3).method == "no bound without spread between runs"
    assert math.isnan(prediction_bound([]).value)


def test_trials_that_crossed_at_one_evaluation_have_the_spread_of_the_grid():
    found = prediction_bound([reached(8, 0.5)] * 5)
    half = stats.t.ppf(0.9, 4) * 0.5 / 7.75 / math.sqrt(12) * math.sqrt(1.2)
    assert found.value == pytest.approx(8 * math.exp(half))
