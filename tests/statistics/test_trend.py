"""Whether the cost rises with total batch size, from the trials themselves: misses count, and erase nothing."""

import math

import numpy as np
import pytest
from scipy import stats

from harness.plan.outcome import Outcome
from harness.statistics.diagnosis import diagnose
from harness.statistics.estimates import Observation
from harness.statistics.fit_models import Model
from harness.statistics.fits import fit
from harness.statistics.trend import Direction, rise


def reached(*values, width=0.5):
    return [Observation(Outcome.REACHED, float(value), float(value) - width) for value in values]


def censored(stop, n=3):
    return [Observation(Outcome.CENSORED, math.inf, float(stop))] * n


DIVERGED = Observation(Outcome.DIVERGED, math.inf, 1.0)
SLOWDOWN = {16: reached(3, 3, 3.5), 64: reached(4.5, 4, 4.5), 256: reached(12, 11, 12.5)}


def sentence(arms):
    return diagnose([fit(arms, model) for model in Model], rise(arms)).sentence


@pytest.mark.parametrize(
    "added", [censored(40), censored(12), censored(2), [*reached(38), *censored(40, 2)], [DIVERGED] * 3], ids=str
)
def test_an_arm_that_missed_does_not_erase_the_slowdown(added):
    assert rise(SLOWDOWN).rises
    assert rise({**SLOWDOWN, 512: added}).rises
    assert "No rise" not in sentence({**SLOWDOWN, 512: added})


def test_an_arm_that_missed_beyond_the_others_is_itself_a_rise():
    assert rise({16: reached(3, 3, 3.5, 3), 512: censored(40, 4)}).rises
    assert not rise({16: reached(3, 3, 3.5, 3), 512: censored(2, 4)}).established
    only = sentence({16: reached(3, 3, 3.5, 3), 512: censored(40, 4)})
    assert only.startswith("No curve: fewer than two arms reached the target; a rise of E with TBS is established")


def test_falling_costs_are_said_to_fall():
    falling = {16: reached(12, 11, 12.5), 64: reached(4.5, 4, 4.5), 256: reached(3, 3, 3.5)}
    assert (rise(falling).direction, rise(falling).rises) == (Direction.FALLING, False)
    assert sentence(falling).startswith("E falls with TBS (trend test, p = ")


def test_without_misses_two_groups_are_mann_and_whitneys_test():
    a, b = [3.0, 4.0, 7.0, 9.0], [5.0, 8.0, 10.0, 6.0]
    found = rise({16: reached(*a, width=0), 64: reached(*b, width=0)})
    assert found.p == pytest.approx(stats.mannwhitneyu(a, b, method="exact").pvalue, abs=0.02)


def test_a_handful_of_trials_is_enumerated():
    """Four arms of one trial: 2 of 24 orders are as extreme; published means like these are judged by their curve."""
    found = rise({2**i: reached(v) for i, v in enumerate((48, 70, 95, 116))})
    assert (found.p, found.direction, found.can_decide) == (pytest.approx(2 / 24), Direction.RISING, False)


@pytest.mark.parametrize("arms", [{}, {16: reached(3)}, {16: reached(3), 64: []}, {16: censored(4), 64: censored(4)}])
def test_nothing_to_compare_is_no_trend(arms):
    assert not rise(arms).established
    assert rise(arms).direction is Direction.FLAT


def test_unequal_budgets_alone_are_no_trend():
    """Arms of one law, the larger ones cut at the median: at most 2.5 % each way."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        arms = {}
        for i, budget in enumerate((40, 40, 8, 8)):
            places = np.ceil(8 * np.exp(0.3 * rng.standard_normal(5)) / 0.5) * 0.5
            arms[2**i] = [trial for v in places for trial in (reached(v) if v <= budget else censored(budget, 1))]
        found.append(rise(arms))
    assert np.mean([trend.rises for trend in found]) <= 0.04
    assert np.mean([trend.established for trend in found]) <= 0.075
