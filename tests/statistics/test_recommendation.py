"""The recommendation: the joint draws against direct computation, the choice by hand, the edges, and by simulation."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.coverage import observed
from benchmarks.decision import Law, decisions
from harness.plan.outcome import Outcome
from harness.statistics.estimates import Interval, Observation
from harness.statistics.joint_curves import ArmData, joint_draws, posterior
from harness.statistics.recommendation import Candidate, StepTime, choose, recommend, remaining_regret

DIVERGED = Observation(Outcome.DIVERGED, math.inf, math.nan)


def missed(stop):
    return Observation(Outcome.CENSORED, math.inf, float(stop))


def met_by(first):
    return Observation(Outcome.REACHED, first, 0.0)


def arm(cost, cv=0.1, n=5, grid=0.0):
    """Seeds at the normal quantiles: the same trials in every test."""
    return observed(cost * np.exp(cv * stats.norm.ppf((np.arange(n) + 0.5) / n)), grid)


def sweep(costs, rule="sqrt", **how):
    return {(rule, 16 * 2**i): arm(cost, **how) for i, cost in enumerate(costs)}


def candidate(total_batch_size, regret, rule="sqrt"):
    ends = Interval(1, 1, 0.95, "")
    return Candidate((rule, total_batch_size), 0.5, regret, 1.0, ends, None, None)


def test_a_missed_arm_is_as_bayes_theorem_says():
    """Expectation propagation against a grid over two arms: one measured, one of two trials that missed, correlated."""
    noise, stop = 0.2**2, 0.9
    data = (
        ArmData(3, 0.5, relative_variance=1.0, grid_variance=0.0, stops={}, firsts={}, diverged=0, n=3),
        ArmData(0, 0.0, relative_variance=1.0, grid_variance=0.0, stops={stop: 2}, firsts={}, diverged=0, n=2),
    )
    prior = np.array([[0.30, 0.25], [0.25, 0.30]])
    x, y = np.meshgrid(np.linspace(-2, 4, 601), np.linspace(-2, 4, 601), indexing="ij")
    law: Any = stats.multivariate_normal
    density = law([0.5, 0.5], prior).pdf(np.stack([x, y], axis=-1))
    density *= stats.norm.pdf(0.5, x, math.sqrt(noise / 3)) * stats.norm.cdf((y - stop) / math.sqrt(noise)) ** 2
    density /= density.sum()
    mean, covariance = posterior(data, prior[None], np.array([noise]))
    assert mean[0] == pytest.approx([(density * x).sum(), (density * y).sum()], abs=2e-3)
    assert covariance[0, 1, 1] == pytest.approx((density * (y - (density * y).sum()) ** 2).sum(), rel=0.03)


def test_an_arm_that_met_the_target_at_its_first_evaluation_is_as_bayes_theorem_says():
    """As above: one arm measured, one of two trials that had met the target by 0.1, correlated."""
    noise, first = 0.2**2, 0.1
    data = (
        ArmData(3, 0.5, relative_variance=1.0, grid_variance=0.0, stops={}, firsts={}, diverged=0, n=3),
        ArmData(0, 0.0, relative_variance=1.0, grid_variance=0.0, stops={}, firsts={first: 2}, diverged=0, n=2),
    )
    prior = np.array([[0.30, 0.25], [0.25, 0.30]])
    x, y = np.meshgrid(np.linspace(-3, 3, 601), np.linspace(-3, 3, 601), indexing="ij")
    law: Any = stats.multivariate_normal
    density = law([0.5, 0.5], prior).pdf(np.stack([x, y], axis=-1))
    density *= stats.norm.pdf(0.5, x, math.sqrt(noise / 3)) * stats.norm.cdf((first - y) / math.sqrt(noise)) ** 2
    density *= np.exp(y)  # uniform in E
    density /= density.sum()
    mean, covariance = posterior(data, prior[None], np.array([noise]))
    assert mean[0] == pytest.approx([(density * x).sum(), (density * y).sum()], abs=2e-3)
    assert covariance[0, 1, 1] == pytest.approx((density * (y - (density * y).sum()) ** 2).sum(), rel=0.03)


def test_the_curve_does_not_pull_an_arm_beyond_the_first_evaluation_that_met_the_target():
    """TBS 64 had met it by 0.25; its neighbours take 2, and the middle of its bracket would be pulled to 0.4."""
    found = recommend({("sqrt", 16): arm(2.0, n=3), ("sqrt", 64): [met_by(0.25)] * 3, ("sqrt", 256): arm(2.1, n=3)})
    assert found.recommended is not None
    assert found.recommended.arm == ("sqrt", 64)
    assert found.settled
    assert found.recommended.examples < 0.25


def test_arms_that_met_the_target_at_their_first_evaluation_are_not_told_apart_by_seeds():
    found = recommend({("sqrt", 16): [met_by(0.25)] * 5, ("sqrt", 64): [met_by(0.25)] * 5})
    assert (found.settled, found.more_seeds, found.more_seeds_is_bound) == (False, {}, True)
    assert min(c.p_best for c in found.candidates) > 0.3


def test_an_arm_that_met_the_target_before_training_does_not_compete():
    at_zero = Observation(Outcome.REACHED, 0.0, 0.0)
    found = recommend({("sqrt", 16): [*arm(8, n=2), at_zero], ("sqrt", 32): arm(9)})
    assert found.set_aside == {("sqrt", 16): "met the target before training"}
    assert [c.arm[1] for c in found.candidates] == [32]
    assert recommend({("sqrt", 16): [at_zero]}).recommended is None


def test_an_arm_borrows_from_its_neighbours():
    """8 between 4 and 4 is taken to be less; the same arm alone keeps its own mean."""
    rng = np.random.default_rng(0)
    drawn = joint_draws(sweep([4, 4, 8, 4, 4], cv=0.3, n=3), 4000, rng)
    assert 4.5 < math.exp(drawn.log_cost[:, 2].mean()) < 7
    alone = joint_draws(sweep([8], cv=0.3, n=3), 4000, rng)
    assert math.exp(alone.log_cost.mean()) == pytest.approx(8, rel=0.02)


def test_rules_share_the_base_point_and_nothing_else():
    rng = np.random.default_rng(0)
    arms = {**sweep([4, 5, 7], "sqrt"), ("none", 32): arm(9), ("none", 64): arm(18)}
    drawn = joint_draws(arms, 4000, rng, base=16)
    assert drawn.arms == tuple(arms)
    correlation = np.corrcoef(drawn.log_cost.T)
    assert abs(correlation[1, 3]) < 0.3
    assert math.exp(drawn.log_cost[:, 3].mean()) == pytest.approx(9, rel=0.05)


def test_the_smallest_tbs_within_three_points_of_the_least_is_chosen():
    assert choose([candidate(16, 0.06), candidate(64, 0.029), candidate(256, 0.0)]).arm[1] == 64
    assert choose([candidate(16, 0.031), candidate(64, 0.001), candidate(256, 0.0)]).arm[1] == 64
    assert choose([candidate(16, 0.12), candidate(64, 0.1)]).arm[1] == 16
    assert choose([candidate(64, 0.02), candidate(64, 0.01, "linear")]).arm == ("linear", 64)


def test_a_settled_choice_is_preferred_to_an_unsettled_smaller_tbs():
    assert choose([candidate(16, 0.06), candidate(64, 0.04)]).arm[1] == 64


def test_seconds_are_updates_times_seconds_per_update():
    """10 examples at TBS 32 and 0.2 s an update: 0.0625 s; in examples TBS 16 is best, in seconds TBS 64."""
    arms = sweep([8, 10, 12], cv=0.02)
    in_examples = recommend(arms)
    assert in_examples.recommended is not None
    assert in_examples.recommended.arm == ("sqrt", 16)
    assert in_examples.recommended.seconds is None
    found = recommend(arms, step_times={size: StepTime(0.2) for size in (16, 32, 64)})
    assert found.recommended is not None
    assert found.recommended.arm == ("sqrt", 64)
    assert found.candidates[1].seconds == pytest.approx(10 / 32 * 0.2, rel=0.02)
    assert found.candidates[1].examples == pytest.approx(10, rel=0.02)
    assert found.settled
    assert found.recommended.p_best > 0.99
    assert found.candidates[0].expected_regret == pytest.approx(8 / 16 / (12 / 64) - 1, rel=0.1)


def test_the_uncertainty_of_step_times_counts():
    arms = sweep([8, 16], cv=0.02)  # twice the examples at twice the TBS: equal times
    sure, unsure = (
        recommend(arms, step_times={16: StepTime(1.0, sd), 32: StepTime(1.2, sd)}).candidates[0].p_best
        for sd in (0.0, 0.3)
    )
    assert sure > 0.99
    assert 0.55 < unsure < 0.8
    assert StepTime.from_interval(1.0, 0.8, 1.25).relative_sd == pytest.approx(math.log(1.25) / 1.96, rel=1e-3)


def test_arms_without_a_step_time_do_not_compete():
    found = recommend(sweep([8, 10, 12]), step_times={16: StepTime(0.2), 32: StepTime(0.2)})
    assert found.set_aside == {("sqrt", 64): "no step time"}
    assert [c.arm[1] for c in found.candidates] == [16, 32]


def test_arms_under_two_names_count_once():
    arms = {("none", 16): arm(8), ("sqrt", 16): arm(8), ("sqrt", 32): arm(12)}
    found = recommend(arms, base=16, identity=lambda key: 16 if key[1] == 16 else key)
    assert [c.arm for c in found.candidates] == [("none", 16), ("sqrt", 32)]
    assert sum(c.p_best for c in found.candidates) == pytest.approx(1)


def test_one_arm_is_the_best():
    found = recommend({("sqrt", 16): arm(8)})
    assert found.recommended is not None
    assert (found.recommended.p_best, found.recommended.expected_regret, found.settled) == (1.0, 0.0, True)


def test_one_seed_an_arm_gives_wide_but_finite_numbers():
    found = recommend(sweep([8, 8.5, 9, 12], n=1))
    assert found.recommended is not None
    assert found.recommended.examples_interval.high > 1.1 * found.recommended.examples
    assert sum(c.p_best for c in found.candidates) == pytest.approx(1)


def test_one_seed_uses_the_spread_of_the_others():
    arms = {**sweep([8, 9, 10], cv=0.02), ("sqrt", 128): arm(5, n=1)}
    found = recommend(arms)
    assert found.noise_sd == pytest.approx(0.02, rel=0.3)
    assert found.recommended is not None
    assert found.recommended.arm == ("sqrt", 128)


def test_trials_without_spread_keep_the_width_of_their_bracket():
    found = recommend(sweep([8.0, 8.0, 8.0], cv=0.0, grid=1.0))
    assert found.recommended is not None
    ends = found.recommended.examples_interval
    assert ends.high - ends.low > 0.5
    assert not math.isnan(found.recommended.expected_regret)


@pytest.mark.parametrize("arms", [{}, {("sqrt", 16): []}, {("sqrt", 16): [missed(40)] * 3, ("sqrt", 32): [DIVERGED]}])
def test_without_an_arm_that_reached_there_is_no_choice(arms):
    found = recommend(arms)
    assert (found.recommended, found.candidates, found.settled) == (None, (), False)


def test_an_arm_half_of_which_diverged_is_set_aside_and_fewer_make_it_dearer():
    arms = sweep([8, 6, 12], cv=0.02, n=4)
    arms["sqrt", 32] = [*arms["sqrt", 32][:2], DIVERGED, DIVERGED]
    assert recommend(arms).set_aside == {("sqrt", 32): "diverged"}
    arms["sqrt", 32] = [*arms["sqrt", 32][:2], *arm(6, 0.02, 2), DIVERGED]
    assert recommend(arms).candidates[1].examples == pytest.approx(6 / 0.8, rel=0.03)


def test_a_miss_moves_an_arm_up():
    arms = sweep([8, 9, 10, 12])
    without = recommend(arms).candidates[3].examples
    arms["sqrt", 128] = [*arms["sqrt", 128][:4], missed(15)]
    assert recommend(arms).candidates[3].examples > without


def test_an_arm_cut_early_is_a_rival_until_its_budget_is_longer():
    """Stopped at 6 epochs, TBS 128 might still be the fastest of all: its neighbours take 6 to 7."""
    arms = {**sweep([5, 5.5, 6.5], cv=0.3, n=3), ("sqrt", 128): [missed(6)] * 3}
    steps = {size: StepTime(1.0) for size in (16, 32, 64, 128)}
    found = recommend(arms, step_times=steps)
    assert found.unmeasured["sqrt", 128] > 0.5
    assert (found.settled, found.longer_budget, found.more_seeds) == (False, ("sqrt", 128), {})
    far = recommend({**arms, ("sqrt", 128): [missed(40)] * 3}, step_times=steps)
    assert far.unmeasured["sqrt", 128] < 0.05
    assert far.longer_budget is None


def test_more_seeds_go_where_two_close_arms_are_compared():
    found = recommend(sweep([30, 8, 8.2, 30], cv=0.5, n=3))
    assert not found.settled
    assert set(found.more_seeds) <= {("sqrt", 32), ("sqrt", 64)}
    assert sum(found.more_seeds.values()) >= 1
    assert recommend(sweep([8, 16, 30], cv=0.05)).more_seeds == {}


def test_the_remaining_regret_is_that_of_the_better_of_two():
    """Equal means: sd / sqrt(2 pi) now, nothing once all is known; far apart: nothing."""
    assert remaining_regret(0.0, 0.04, 0.04) == pytest.approx(0.2 / math.sqrt(2 * math.pi))
    assert remaining_regret(0.0, 0.04, 0.0) == pytest.approx(0.0, abs=1e-3)
    assert remaining_regret(2.0, 0.04, 0.04) == pytest.approx(0.0, abs=1e-9)
    lefts = [remaining_regret(0.1, 0.04, left) for left in (0.04, 0.03, 0.02, 0.01)]
    assert lefts == sorted(lefts, reverse=True)


def test_the_answer_is_the_same_from_call_to_call_and_in_any_unit():
    arms = sweep([8, 8.2, 9], cv=0.3)
    again = recommend(arms)
    assert recommend(arms) == again
    examples = {key: observed([1024 * o.value for o in trials]) for key, trials in arms.items()}
    scaled = recommend(examples)
    assert [c.p_best for c in scaled.candidates] == pytest.approx([c.p_best for c in again.candidates], abs=0.002)


trial = st.one_of(
    st.floats(0.5, 50).map(lambda place: observed([place], 0.5)[0]),
    st.floats(0.0, 50).map(missed),
    st.floats(0.5, 50).map(met_by),
    st.just(met_by(0.0)),
    st.just(DIVERGED),
    st.just(Observation(Outcome.FAILED, math.inf, math.nan)),
)
keys = st.tuples(st.sampled_from(["none", "sqrt"]), st.sampled_from([16, 64, 65536]))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(keys, st.lists(trial, max_size=4), max_size=5), st.sampled_from([None, 16]))
def test_shares_add_up_to_one_and_regrets_are_finite(arms, base):
    found = recommend(arms, base=base, draws=200)
    shares = [c.p_best for c in found.candidates] + list(found.unmeasured.values())
    assert not found.candidates or sum(shares) == pytest.approx(1)
    for c in found.candidates:
        assert 0 <= c.expected_regret < math.inf
        assert c.examples_interval.low <= c.examples <= c.examples_interval.high
    assert found.settled == (found.recommended is not None and found.recommended.expected_regret < 0.05)


def test_two_studies_choose_the_same_tbs_more_often_than_by_argmin_and_lose_less():
    found = decisions(Law(), 80)
    assert found.same >= found.same_argmin + 0.08
    assert found.lost.mean() < 0.75 * found.lost_argmin.mean()
    assert found.stated[found.top].mean() == pytest.approx(found.true[found.top].mean(), abs=0.1)


@pytest.mark.long
@pytest.mark.parametrize("law", [Law(), Law(seeds=3), Law(cv=0.1), Law(rules=3), Law(uneven=True)], ids=str)
def test_p_best_is_calibrated_within_five_points(law):
    found = decisions(law, 600)
    error = 2 * math.sqrt(0.25 / len(found.top))
    assert found.stated[found.top].mean() == pytest.approx(found.true[found.top].mean(), abs=0.05 + error)
    for low, high in ((0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 1.01)):
        inside = (found.stated >= low) & (found.stated < high)
        assert found.stated[inside].mean() == pytest.approx(found.true[inside].mean(), abs=0.05 + error)
    assert found.lost.mean() < found.lost_argmin.mean()
