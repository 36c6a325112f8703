"""The arms that are not distinguished from the best: by hand, at the edges, and by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.decision import observed, set_coverage
from harness.plan.outcome import Outcome
from harness.statistics.best_set import best_set
from harness.statistics.dunnett import dunnett_quantile
from harness.statistics.estimates import Observation
from harness.statistics.levels import levels

MISS = Observation(Outcome.CENSORED, math.inf, 40.0)
DIVERGED = Observation(Outcome.DIVERGED, math.inf, math.nan)


def test_the_bound_is_dunnetts_quantile_times_the_shrunk_error():
    """Three arms of three seeds, log sd 0.1, so 6 pooled degrees; the third arm's distance decides."""
    logs = np.array([-0.1, 0.0, 0.1])
    bound = dunnett_quantile(2, 6) * math.sqrt(2 * 0.01 / 3)
    for distance, is_in in ((0.99 * bound, True), (1.01 * bound, False)):
        arms = {"a": observed(np.exp(logs)), "b": observed(np.exp(logs + 0.01)), "c": observed(np.exp(logs + distance))}
        found = best_set(arms)
        assert found.best == "a"
        assert ("c" in found.members) is is_in
        assert found.excluded == (() if is_in else ("c",))
        assert (found.arms, found.coverage) == (3, 0.95)


def test_a_variance_is_shrunk_towards_the_pooled_one_but_not_where_the_arm_is_noisier():
    quiet, noisy = np.array([-0.1, 0.0, 0.1]), np.array([-0.5, 0.0, 0.5])
    found = levels({"quiet": observed(np.exp(quiet)), "noisy": observed(np.exp(noisy))})
    pooled = (0.01 + 0.25) / 2
    assert found["quiet"].variance == pytest.approx((4 * pooled + 2 * 0.01) / 6 / 3)
    assert found["noisy"].variance == pytest.approx(0.25 / 3)
    assert found["quiet"].degrees == 4  # the pooled variance itself has no more
    assert found["quiet"].mean == pytest.approx(0.0)


def test_trials_that_crossed_at_one_evaluation_keep_the_error_of_the_grid():
    arms = {16: observed([8.0] * 5, 1.0), 32: observed([9.0] * 5, 1.0), 64: observed([16.0] * 5, 1.0)}
    assert levels(arms)[16].variance == pytest.approx((1 / 7.5) ** 2 / 12)
    assert best_set(arms).members == (16,)  # (7, 8] and (8, 9] hold no common place


def test_exact_ties_are_all_in():
    assert best_set({16: observed([8.0] * 3), 32: observed([8.0] * 3), 64: observed([8.1] * 3)}).members == (16, 32)


def test_without_replicates_nothing_is_excluded_and_no_coverage_is_claimed():
    found = best_set({16: observed([8.0]), 32: observed([80.0])})
    assert (found.best, found.members, found.coverage) == (16, (16, 32), 0.0)


def test_an_exclusion_by_a_test_of_two_arms_has_a_coverage_where_no_spread_is_known():
    at_once = [Observation(Outcome.REACHED, 1.0, 0.0)] * 5
    found = best_set({16: at_once, 32: [MISS] * 5}, excludes=lambda arm, other: (arm, other) == (32, 16))
    assert (found.best, found.members, found.excluded, found.coverage) == (16, (16,), (32,), 0.95)


def test_one_seed_is_judged_by_the_spread_of_the_others():
    rng = np.random.default_rng(0)
    arms = {size: observed(8 * np.exp(0.05 * rng.standard_normal(5))) for size in (16, 32, 64)}
    assert best_set({**arms, 128: observed([16.0])}).excluded == (128,)


def test_an_arm_with_a_miss_stays_in_until_the_two_arm_test_excludes_it():
    arms = {16: observed([8.0, 8.2, 8.4]), 32: [*observed([30.0, 31.0]), MISS], 64: [DIVERGED] * 3, 128: []}
    found = best_set(arms)
    assert (found.members, found.with_misses, found.arms) == ((16, 32, 64), (32, 64), 3)
    found = best_set(arms, excludes=lambda arm, other: arm in (32, 64) and other == 16)
    assert (found.members, found.excluded) == ((16,), (32, 64))


def test_an_arm_with_a_miss_can_exclude_the_best_of_the_others():
    arms = {16: [*observed([2.0, 2.0, 2.0, 2.0]), MISS], 32: observed([8.0, 8.2, 8.4]), 64: observed([8.1, 8.2, 8.3])}
    found = best_set(arms, excludes=lambda arm, other: arm == 32 and other == 16)
    assert (found.best, found.members) == (64, (16, 64))


def test_an_arm_that_met_the_target_at_its_first_evaluation_excludes_and_is_not_excluded():
    """It needs at most 2: less than 8. Whether it needs less than 0.5 is not known."""
    by_2 = [Observation(Outcome.REACHED, 2.0, 0.0)] * 3
    arms = {16: by_2, 32: observed([8.0, 8.2, 8.4]), 64: observed([8.1, 8.2, 8.3])}
    found = best_set(arms)
    assert (found.best, found.members, found.excluded) == (16, (16,), (32, 64))
    found = best_set({**arms, 128: observed([0.5, 0.51, 0.52])})
    assert (found.best, found.members) == (128, (16, 128))
    assert best_set({16: [Observation(Outcome.REACHED, 0.0, 0.0)] * 3, 32: arms[32]}).members == (16,)


def test_where_every_arm_has_a_miss_there_is_no_best_arm():
    found = best_set({16: [MISS] * 3, 32: [MISS] * 3})
    assert (found.best, found.members, found.coverage) == (None, (16, 32), 0.0)
    assert best_set({}).members == ()


def test_arms_that_share_their_runs_count_once():
    shared = observed([8.0, 8.2, 8.4])
    arms = {("none", 16): shared, ("sqrt", 16): shared, ("none", 64): observed([9.0, 9.2, 9.4])}
    found = best_set(arms, identity=lambda arm: 16 if arm[1] == 16 else arm)
    assert (found.arms, found.members) == (2, (("none", 16),))


places = st.lists(st.floats(0.5, 50), min_size=1, max_size=4)


@given(st.lists(places, min_size=1, max_size=5), st.sampled_from([0.0, 0.5]))
def test_the_best_is_always_in_and_every_arm_is_named(values, grid):
    arms = {i: observed(arm, grid) for i, arm in enumerate(values)}
    found = best_set(arms)
    assert found.best in found.members
    assert sorted([*found.members, *found.excluded]) == list(arms)


@pytest.mark.parametrize(
    ("arms", "seeds", "law"), [(6, 3, "ties"), (6, 5, "best is noisiest"), (6, 5, "gaps of 10 %"), (6, 5, "grid")]
)
def test_the_set_holds_the_best_arm_in_95_percent(arms, seeds, law):
    simulations = 600
    result = set_coverage(arms, seeds, law, simulations)
    assert result.share >= stats.binom.ppf(0.01, simulations, 0.95) / simulations
    assert result.size < arms or law != "gaps of 10 %"
