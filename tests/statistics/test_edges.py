"""Every estimator at the edge of its domain: thousands of simulated arms, on an evaluation grid, with every ending.

No exception and no warning; no nan where a number is promised; no interval with its low end above its high end, or
without its own estimate; no verdict that contradicts its interval.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import pytest

from harness.analyse.arm_estimates import arm_estimates
from harness.plan.outcome import Outcome
from harness.statistics.comparisons import Comparison, Verdict, by_seed, compare, correct, p_slower, regrets
from harness.statistics.diagnosis import outliers
from harness.statistics.estimates import (
    Interval,
    Observation,
    PooledSpread,
    QuantileEstimate,
    median_estimate,
    pooled_log_spread,
    with_outcome,
)
from harness.statistics.monotone import met_length
from harness.statistics.noise_scale import TrainingSums
from harness.statistics.rank_test import ratio_test
from harness.statistics.rcp import ConvergencePoint, fastest_accepted_mean, interpolate, olympic_mean, pruned
from harness.statistics.survival import reach_curve
from harness.statistics.trend import Direction, rise
from harness.statistics.tuned_lr import BestLr, best_lr, lr_exponent
from harness.statistics.variance import components

GRIDS = (0.0, 0.25, 0.5, 4.0)
CVS = (0.0, 1e-14, 0.05, 0.3, 1.5)

pytestmark = pytest.mark.filterwarnings("error")


def arm(rng: np.random.Generator, size: int | None = None) -> list[Observation]:
    """Trials of one arm as a sweep leaves them: log-normal or tied, on a grid or not, cut, raced, diverged, failed."""
    n = int(rng.choice([0, 1, 2, 3, 4, 5, 5, 6, 8, 12])) if size is None else size
    grid, cv = float(rng.choice(GRIDS)), float(rng.choice(CVS))
    median = float(rng.choice([0.1, 1.0, 8.0, 8.0, 8.0, 1e6, 1e-9, 1e9]))
    budget = float(median * rng.choice([0.3, 1.0, 1.2, 5.0, math.inf]))
    unhappy = float(rng.choice([0.0, 0.0, 0.2, 1.0]))
    kinds = [Outcome.DIVERGED, Outcome.FAILED, Outcome.DOMINATED, Outcome.CENSORED]
    trials = []
    for place in median * np.exp(cv * rng.standard_normal(n)):
        value = math.ceil(place / grid) * grid if grid else float(place)
        if rng.random() < unhappy:
            stop = float(rng.choice([0.0, value / 2, value, math.nan]))
            trials.append(Observation(Outcome(rng.choice(kinds)), math.inf, stop))
        elif value > budget:
            trials.append(Observation(Outcome.CENSORED, math.inf, budget))
        else:
            low = value if not grid else max(value - grid, 0.0)
            trials.append(Observation(Outcome.REACHED, value, float(rng.choice([low, low, low, math.nan]))))
    if rng.random() < 0.03:
        trials = [Observation(Outcome.REACHED, 0.0, 0.0) for _ in trials]
    return trials


def spread_of(rng: np.random.Generator, arms: Sequence[Sequence[Observation]]) -> PooledSpread | None:
    choice = rng.integers(4)
    if choice == 0:
        return None
    return PooledSpread(0.1, 20, 0.5, 8) if choice == 1 else pooled_log_spread(arms)


def is_ordered(interval: Interval) -> bool:
    return interval.low <= interval.high and 0 <= interval.coverage <= 1  # neither holds for nan


def does_not_contradict_itself(result: Comparison) -> bool:
    low, high = result.interval.low, result.interval.high
    least, most = 1 / (1 + result.margin) * (1 - 1e-9), (1 + result.margin) * (1 + 1e-9)
    return {
        Verdict.SLOWER: low > 1 and not result.ratio < low,
        Verdict.FASTER: high < 1 and not result.ratio > high,
        Verdict.EQUIVALENT: least <= low <= high <= most,
        Verdict.NOT_ESTABLISHED: True,
    }[result.verdict]


def check_quantile(found: QuantileEstimate) -> None:
    assert is_ordered(found.interval)
    if found.n:
        assert found.at_least <= found.value
        assert found.value in found.interval or found.value > found.at_least
    assert found.n != 1 or found.interval.is_everything


def check_arm(rng: np.random.Generator) -> None:
    trials = arm(rng)
    spread, cap = spread_of(rng, [trials, arm(rng), arm(rng)]), float(rng.choice([1.0, 8.0, 1e6]))
    found = arm_estimates(trials, spread, cap)
    for quantile in (median_estimate(trials, spread), found.lower_quartile, found.upper_quartile, found.percentile_90):
        check_quantile(quantile)
    assert is_ordered(found.reach.interval)
    assert is_ordered(found.reach.wilson)
    mean, bound, n = found.restricted, found.budget, len(with_outcome(trials))
    assert is_ordered(mean.interval)
    if n:
        assert mean.interval.low <= mean.mean * (1 + 1e-9) + 1e-12
        assert mean.mean <= mean.interval.high * (1 + 1e-9) + 1e-12
        assert mean.mean <= cap * (1 + 1e-9)
        assert min(cap, *(o.at_least for o in with_outcome(trials))) <= mean.mean * (1 + 1e-9) + 1e-12
        assert bound.at_least <= bound.value
        assert bound.value >= sorted(o.at_least for o in with_outcome(trials))[0]
    curve = reach_curve(trials)
    assert list(curve.places) == sorted(set(curve.places))
    assert not any(math.isnan(end) for end in (*curve.low, *curve.high))
    json.dumps(asdict(found))


def check_pair(rng: np.random.Generator) -> None:
    a, b = arm(rng), arm(rng)
    if rng.random() < 0.5:
        factor = float(rng.choice([0.5, 0.999, 1.0, 1.2, 3.0]))
        b = [Observation(o.outcome, o.value * factor, o.low * factor) for o in (a if rng.random() < 0.5 else b)]
    spread = spread_of(rng, [a, b, arm(rng)])
    same = rng.random() < 0.5
    if same:
        seeds = [dict(zip(rng.permutation(14)[: len(trials)].tolist(), trials, strict=True)) for trials in (a, b)]
        a, b = by_seed(*seeds)
    result = compare(a, b, same_seeds=same, spread=spread)
    check_comparison(result)
    back = compare(b, a, same_seeds=same, spread=spread)
    opposite = {Verdict.SLOWER: Verdict.FASTER, Verdict.FASTER: Verdict.SLOWER}
    assert back.verdict is opposite.get(result.verdict, result.verdict)
    for corrected in correct({str(i): result for i in range(4)}, primary="0").values():
        check_comparison(corrected)
        assert corrected.verdict in (result.verdict, Verdict.NOT_ESTABLISHED)
    for margin in (0.0, 0.05, 0.5):
        p = p_slower(a, b, margin, same_seeds=same, spread=spread)
        assert math.isnan(p) == (min(result.n_a, result.n_b) == 0)
        assert not p < 0.025 or result.interval.low > (1 + margin) * (1 - 1e-9)
    regret = regrets({"rule": (b, a)}, spread)["rule"]
    assert regret.interval.low <= regret.interval.high


def check_comparison(result: Comparison) -> None:
    assert is_ordered(result.interval)
    assert does_not_contradict_itself(result)
    assert math.isnan(result.ratio) or result.interval.low <= result.ratio <= result.interval.high
    assert not math.isnan(result.ratio) or result.interval.is_everything
    if min(result.n_a, result.n_b):
        for p in (result.p, result.p_permutation, result.p_equivalence):
            assert 0 <= p <= 1
        assert (result.p < 0.05) == (1 not in result.interval)
    else:
        assert result.verdict is Verdict.NOT_ESTABLISHED
    needed = result.seeds_needed
    assert needed is None or 2 <= needed.low <= needed.high
    assert not result.reason or result.interval.is_everything
    json.dumps(asdict(result))


def check_sweep(rng: np.random.Generator) -> None:
    arms = {2**i: arm(rng) for i in range(int(rng.integers(0, 6)))}
    trend = rise(arms)
    assert math.isnan(trend.p) or 0 < trend.p <= 1
    assert not (trend.established and trend.direction is Direction.FLAT)
    assert all(math.isfinite(found.deviations) for found in outliers(arms))
    pairs = [(with_outcome(arm(rng)), with_outcome(arm(rng))) for _ in range(3)]
    common = ratio_test(pairs)
    assert is_ordered(common.interval)
    assert (common.p_different < 0.05) == (1 not in common.interval)
    assert math.isnan(common.ratio) or common.ratio in common.interval
    spread = pooled_log_spread(arms.values())
    assert math.isnan(spread.sd) == (spread.degrees_of_freedom == 0)


def check_others(rng: np.random.Generator) -> None:
    values = rng.choice([0.5, 0.9, 0.95, 0.98, -math.inf], size=(int(rng.integers(0, 5)), int(rng.integers(1, 4))))
    length = met_length({4 * 2**i: row.tolist() for i, row in enumerate(values)}, 0.95, "max", 20)
    assert length.low <= length.high
    assert length.low <= length.length <= length.high or not math.isfinite(length.length)
    assert math.isfinite(length.low) or not len(values)
    tried = (0.1, 0.2, 0.4, 0.8)[: rng.integers(5)]
    lrs = {lr: float(rng.choice([0, 3, 4, math.inf, math.nan])) for lr in tried}
    points = [best_lr(16, lrs)] if lrs else []
    points += [BestLr(int(rng.choice([16, 64])), float(rng.choice([0.1, 0.2, math.nan])), False) for _ in range(3)]
    growth = lr_exponent(points, {"none": 0.0, "linear": 1.0}, 2.0)
    assert growth.interval.low <= growth.interval.high
    groups = rng.choice([0.0, 1.0, 2.0, 2.5, math.inf, 3.0], size=(int(rng.integers(0, 4)), int(rng.integers(1, 4))))
    split = components(groups.tolist())
    assert split is None or (split.sd_within >= 0 and split.sd_between >= 0)
    runs = rng.choice([3.0, 4.0, math.inf, math.nan], p=[0.5, 0.4, 0.05, 0.05], size=int(rng.integers(0, 9)))
    assert olympic_mean(runs.tolist()).n == len(runs)
    sizes = rng.choice([16, 32, 32, 64], size=3)
    judges = [ConvergencePoint(float(s), float(rng.choice([4, 5])), float(rng.choice([0, 1])), 10) for s in sizes]
    assert len(pruned(judges, 5)) <= 3
    assert math.isfinite(interpolate(judges[0], judges[1], 32.0, 5).mean)
    assert math.isnan(fastest_accepted_mean(4.0, 1.0, submission_runs=2, reference_runs=2))
    blocks = np.stack([np.full(6, 2.0), rng.choice([0.0, 1.0, 8.0], 6), rng.choice([0.0, 1.0, 2.0], 6)], axis=1)
    noise = TrainingSums(8, 64, None, blocks[: rng.integers(0, 7)]).estimate()
    assert noise.interval[0] <= noise.interval[1]
    assert not noise.is_identified or noise.interval[0] <= (noise.noise_scale or 0) <= noise.interval[1]


@pytest.mark.long
@pytest.mark.parametrize(
    ("check", "cases"),
    [(check_arm, 4000), (check_pair, 2000), (check_sweep, 1000), (check_others, 3000)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_no_simulated_case_breaks_an_estimator(check: Callable[[np.random.Generator], None], cases: int):
    for case in range(cases):
        try:
            check(np.random.default_rng([13, case]))
        except Exception as error:
            raise AssertionError(f"case {case} of {check.__name__}: {error!r}") from error
