"""Variance components of a one-way layout: known spreads are found, and what cannot be known is not claimed."""

import math

import numpy as np
import pytest

from harness.statistics.variance import components


def test_known_spreads_within_and_between_groups_are_estimated_without_bias():
    random = np.random.default_rng(0)
    within, between = [], []
    for _ in range(400):
        shifts = random.normal(0, 0.2, (8, 1))
        found = components(np.exp(shifts + random.normal(0, 0.1, (8, 5))).tolist())
        assert found is not None
        within.append(found.sd_within**2)
        between.append(found.sd_between**2)
    assert np.mean(within) == pytest.approx(0.1**2, rel=0.05)
    assert np.mean(between) == pytest.approx(0.2**2, rel=0.1)


def test_groups_that_differ_by_chance_alone_have_no_spread_of_their_own_and_uniform_p_values():
    random = np.random.default_rng(1)
    found = [components(np.exp(random.normal(0, 0.1, (5, 5))).tolist()) for _ in range(400)]
    p = [one.p for one in found if one is not None]
    assert len(p) == 400
    assert np.mean(np.asarray(p) < 0.05) == pytest.approx(0.05, abs=0.03)


@pytest.mark.parametrize(
    "groups",
    [[[1.0, 2.0]], [[1.0], [2.0]], [[1.0, math.inf], [2.0, 3.0]], [[1.0, 2.0], [3.0]], [[0.0, 1.0], [2.0, 3.0]]],
)
def test_a_miss_or_too_few_groups_give_no_estimate(groups):
    assert components(groups) is None


def test_groups_whose_members_all_agree_differ_without_a_p():
    found = components([[2.0, 2.0, 2.0], [3.0, 3.0, 3.0]])
    assert found is not None
    assert found.sd_within == 0
    assert found.sd_between == pytest.approx(math.log(1.5) / math.sqrt(2))
    assert math.isnan(found.p)
