"""Intervals hold the truth as often as they say, by simulation; the laws are the named cases of benchmarks/coverage.py.

Seeded: a failure is a change of the estimators, not bad luck.
"""

import math

import numpy as np
import pytest

from benchmarks.coverage import ABOUT, AT_LEAST, CASES, Case, measure
from harness.plan.outcome import Outcome
from harness.statistics.critical_batch import Status, critical_by_hyperbola
from harness.statistics.estimates import Observation
from harness.statistics.fit_likelihood import arm_means, profile
from harness.statistics.fit_models import Model

pytestmark = pytest.mark.long

SIMULATIONS = 4000


def name(case: Case) -> str:
    return f"{case.method}: {case.law}"


@pytest.mark.parametrize("case", [case for case in CASES if case.promise == AT_LEAST], ids=name)
def test_conservative_intervals_cover_at_least_what_they_state(case):
    result = measure(case, SIMULATIONS)
    assert result.share >= result.stated - 3 * result.error


@pytest.mark.parametrize("case", [case for case in CASES if case.promise == ABOUT], ids=name)
def test_approximate_intervals_cover_what_they_state_within_3_points(case):
    result = measure(case, SIMULATIONS)
    assert result.stated == pytest.approx(0.95) or result.stated == pytest.approx(0.9)
    assert abs(result.share - result.stated) <= 0.03 + 2 * result.error


B_CRIT = 4096


def hyperbolas(sizes, simulations, noise=0.02, seeds=3):
    rng = np.random.default_rng(0)
    for _ in range(simulations):
        yield {
            size: [
                Observation(Outcome.REACHED, place, place)
                for place in (1 + size / B_CRIT) * np.exp(noise * rng.standard_normal(seeds))
            ]
            for size in sizes
        }


@pytest.mark.parametrize(
    ("powers", "low", "high"),
    [
        (range(-3, 4), -0.03, 0.03),
        (range(-4, 1), -0.07, 0.07),
        (range(-6, -2), -0.23, 0.44),
        ((math.log2(0.9), 0, math.log2(1.1)), -0.47, 0.95),
    ],
    ids=["B_crit/8 to 8 B_crit", "B_crit/16 to B_crit", "up to B_crit/8", "within 10 % of B_crit"],
)
def test_a_hyperbola_comes_back_within_the_error_of_its_design(powers, low, high):
    """95 % of estimates from 2 % noise, three seeds; an independent simulation: -3/+3, -7/+5, -24/+45, -43/+98 %."""
    sizes = [round(B_CRIT * 2.0**power) for power in powers]
    errors = []
    for arms in hyperbolas(sizes, 300):
        found = profile(arm_means(arms), Model.HYPERBOLA)
        errors.append(found.shapes.critical()[found.best] / B_CRIT - 1)
    found_low, found_high = np.quantile(errors, [0.025, 0.975])
    assert found_low == pytest.approx(low, abs=0.015 + abs(low) / 6)
    assert found_high == pytest.approx(high, abs=0.015 + high / 6)


def test_a_sweep_that_ends_at_an_eighth_of_b_crit_is_never_called_identified():
    results = [critical_by_hyperbola(arms) for arms in hyperbolas([64, 128, 256, 512], 300)]
    assert all(result.status in (Status.AT_LEAST, Status.NOT_IDENTIFIED) for result in results)
    bounds = np.array([result.interval.low for result in results])
    assert np.mean(bounds <= B_CRIT) > 0.95  # and the bound is a bound


def test_three_arms_around_b_crit_do_not_pretend():
    """Identified only sometimes, and then with an interval that holds B_crit."""
    sizes = [3686, B_CRIT, 4506]
    results = [critical_by_hyperbola(arms) for arms in hyperbolas(sizes, 300)]
    assert np.mean([B_CRIT in result.interval for result in results]) > 0.93
    widths = [result.interval.high / result.interval.low for result in results if result.status is Status.IDENTIFIED]
    assert min(widths, default=2) > 1.2
