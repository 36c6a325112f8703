"""Which arm to train with, how sure that is, and which seeds would settle it.

Cost is examples to target, or seconds: updates to target times seconds per update. In every joint draw one candidate
is the best; P(best) is the share of draws it wins, and its expected regret the mean of own cost / best cost - 1. The
recommendation is the smallest TBS whose expected regret is close to the least, which two studies of the same truth
agree on more often than on the winner (benchmarks/decision.py).
"""

import math
from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import special

from harness.statistics.estimates import CONFIDENCE, Interval, Observation
from harness.statistics.joint_curves import Arm, ArmData, JointDraws, joint_draws

DRAWS = 2000
CLOSE = 0.03  # a smaller TBS is preferred up to this much more expected regret than the least
SETTLED = 0.05  # expected regret below which the choice is settled
AIMED_AT = 0.035  # expected regret that suggested seeds aim at: three in four then end below 5 %
WORTH_SEEDS = 0.05  # P(best) from which an arm is suggested for more seeds
MOST_SEEDS = 30  # beyond, "more than 30" is the advice


@dataclass(frozen=True)
class StepTime:
    """Seconds of one update at one TBS, and the standard deviation of their log."""

    seconds: float
    relative_sd: float = 0.0

    @classmethod
    def from_interval(cls, seconds: float, low: float, high: float, coverage: float = CONFIDENCE) -> "StepTime":
        """From a central value with an interval of the given coverage."""
        return cls(seconds, math.log(high / low) / 2 / float(special.ndtri((1 + coverage) / 2)))


@dataclass(frozen=True)
class Candidate:
    """One arm that may be chosen; numbers are over the joint draws."""

    arm: Arm
    p_best: float
    expected_regret: float  # 0.025 costs 2.5 % more than the best of each draw
    examples: float  # median, in the unit of the places
    examples_interval: Interval  # of the arm's typical (geometric mean) run, not of the next one
    seconds: float | None  # None where no step times were given
    seconds_interval: Interval | None


@dataclass(frozen=True)
class Recommendation:
    """The choice among `candidates`, in the order of the arms as given."""

    set_aside: dict[Arm, str]  # arms that do not compete, and why: see _set_aside
    lack_sd: float  # of an arm about its rule's curve, on the log
    noise_sd: float  # of one trial, on the log
    draws: int
    candidates: tuple[Candidate, ...] = ()
    recommended: Candidate | None = None  # None: no arm reached the target
    least: Candidate | None = None  # the least expected regret
    settled: bool = False  # the recommended one's expected regret is below 5 %
    unmeasured: dict[Arm, float] = field(default_factory=dict)  # P(best) of arms that never reached
    more_seeds: dict[Arm, int] = field(default_factory=dict)  # what would settle it
    more_seeds_is_bound: bool = False  # even those would not be enough
    longer_budget: Arm | None = None  # an arm that never reached is the strongest rival: seeds would not settle it


def recommend(
    arms: Mapping[Arm, Sequence[Observation]],
    *,
    step_times: Mapping[int, StepTime] | None = None,
    base: float | None = None,
    identity: Callable[[Arm], Hashable] = lambda arm: arm,
    slower: Container[Arm] = (),
    draws: int = DRAWS,
) -> Recommendation:
    """Choose among {(rule, TBS): trials}, whose places are examples (or epochs).

    `base`: the TBS at which all rules train alike. Keys of one `identity` are the same trials under two names: the
    first stands for all. An arm half of whose trials diverged does not compete; fewer make it dearer by the runs that
    have to be repeated. Nor does one that met the target before training, at place 0. An arm that never reached
    competes, but cannot be chosen; not if it is one of `slower`, which a test of two arms excludes. The same input
    gives the same answer.
    """
    distinct, trained = _trained(arms, identity)
    rng = np.random.default_rng(0)
    drawn = joint_draws(trained, draws, rng, base)
    set_aside = _set_aside(drawn, step_times, slower)
    set_aside |= {arm: "met the target before training" for arm in distinct if arm not in trained}
    undecided = Recommendation(set_aside, drawn.lack_sd, drawn.noise_sd, draws)
    kept = [i for i, arm in enumerate(drawn.arms) if arm not in set_aside]
    if not any(drawn.data[i].has_reached for i in kept):
        return undecided
    log_examples = _with_repeats(drawn, kept)
    log_seconds = _log_seconds([drawn.arms[i] for i in kept], log_examples, step_times, rng)
    log_cost = log_examples if log_seconds is None else log_seconds
    shares, regrets = p_best_and_regret(log_cost)
    columns = [column for column, i in enumerate(kept) if drawn.data[i].has_reached]
    candidates = tuple(
        Candidate(
            drawn.arms[kept[column]],
            float(shares[column]),
            float(regrets[column]),
            *_median(log_examples[:, column]),
            *((None, None) if log_seconds is None else _median(log_seconds[:, column])),
        )
        for column in columns
    )
    unmeasured = {drawn.arms[i]: float(shares[column]) for column, i in enumerate(kept) if column not in columns}
    chosen = choose(candidates)
    result = replace(
        undecided,
        candidates=candidates,
        recommended=chosen,
        least=min(candidates, key=lambda candidate: candidate.expected_regret),
        settled=chosen.expected_regret < SETTLED,
        unmeasured=unmeasured,
    )
    if result.settled:
        return result
    longer = _strongest_unmeasured(result)
    if longer is not None:
        return replace(result, longer_budget=longer)
    measured = [kept[column] for column in columns]
    helped = [_is_helped_by_seeds(drawn.data[i], drawn.noise_sd) for i in measured]
    more, is_bound = seeds_to_settle(
        candidates, drawn.log_cost[:, measured], log_cost[:, columns], drawn.noise_sd, helped
    )
    return replace(result, more_seeds=more, more_seeds_is_bound=is_bound)


@dataclass(frozen=True)
class Competition:
    """The arms that compete, with the draws of their examples to target; what `advise` multiplies by step times."""

    arms: tuple[Arm, ...]
    has_reached: tuple[bool, ...]  # one that has not competes, but cannot be chosen
    log_examples: np.ndarray  # float [draw, arm], runs that have to be repeated included
    set_aside: dict[Arm, str]


def competition(
    arms: Mapping[Arm, Sequence[Observation]],
    *,
    base: float | None = None,
    identity: Callable[[Arm], Hashable] = lambda arm: arm,
    draws: int = DRAWS,
) -> Competition:
    """The same draws as `recommend` makes of the same arms."""
    distinct, trained = _trained(arms, identity)
    drawn = joint_draws(trained, draws, np.random.default_rng(0), base)
    set_aside = _set_aside(drawn, None, ())
    kept = [i for i, arm in enumerate(drawn.arms) if arm not in set_aside and drawn.log_cost.size]
    set_aside |= {arm: "met the target before training" for arm in distinct if arm not in trained}
    return Competition(
        tuple(drawn.arms[i] for i in kept),
        tuple(drawn.data[i].has_reached for i in kept),
        _with_repeats(drawn, kept),
        set_aside,
    )


def p_best_and_regret(log_cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each arm, from draws [draw, arm]."""
    over_best = log_cost - log_cost.min(axis=1, keepdims=True)
    return (over_best == 0).mean(axis=0), np.expm1(over_best).mean(axis=0)


def _trained(
    arms: Mapping[Arm, Sequence[Observation]], identity: Callable[[Arm], Hashable]
) -> tuple[list[Arm], dict[Arm, Sequence[Observation]]]:
    """The distinct arms, and those of them that did not meet the target before training."""
    distinct: dict[Hashable, Arm] = {}
    for arm in arms:
        distinct.setdefault(identity(arm), arm)
    return [*distinct.values()], {a: arms[a] for a in distinct.values() if not any(o.place == 0 for o in arms[a])}


def _with_repeats(drawn: JointDraws, kept: Sequence[int]) -> np.ndarray:
    """log E of the kept arms: a share of diverged runs makes an arm dearer by the runs that have to be repeated."""
    repeated = [-math.log1p(-drawn.data[i].diverged / drawn.data[i].n) for i in kept]
    return drawn.log_cost[:, kept] + repeated


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """The smallest TBS whose expected regret is within 3 points of the least, but below 5 % if any is."""
    least = min(candidate.expected_regret for candidate in candidates)
    close = [c for c in candidates if c.expected_regret <= least + CLOSE]
    settled = [c for c in close if c.expected_regret < SETTLED]
    return min(settled or close, key=lambda candidate: (candidate.arm[1], candidate.expected_regret))


def seeds_to_settle(
    candidates: Sequence[Candidate],
    levels: np.ndarray,
    log_cost: np.ndarray,
    noise_sd: float,
    helped: Sequence[bool],
) -> tuple[dict[Arm, int], bool]:
    """Seeds, one at a time where they narrow the difference of the two best most per example, until it is settled.

    `levels` are the draws of log E and `log_cost` those of what is compared, float [draw, candidate]; `helped` are the
    arms in which seeds, not the evaluation grid, are the error. The two are the least expected regret and the best
    P(best) of the others; their regret has to fall by as much as the whole has to. Only arms that may be the best get
    seeds: a far arm would tell the slope between the two, but only as far as the curve is right. The flag says that
    neither these nor 30 seeds are enough.
    """
    if len(candidates) < 2:
        return {}, False
    first = min(range(len(candidates)), key=lambda i: candidates[i].expected_regret)
    second = max((i for i in range(len(candidates)) if i != first), key=lambda i: candidates[i].p_best)
    may_be_best = [c.p_best >= WORTH_SEEDS or i in (first, second) for i, c in enumerate(candidates)]
    open_to_seeds = np.array(may_be_best) & np.array(helped)
    if not open_to_seeds.any():
        return {}, True
    costs = np.where(open_to_seeds, [c.examples for c in candidates], math.inf)
    difference = log_cost[:, first] - log_cost[:, second]
    mean, variance = float(difference.mean()), float(difference.var())
    covariance = np.atleast_2d(np.cov(levels.T))
    with_difference = (levels - levels.mean(axis=0)).T @ (difference - mean) / len(difference)
    noise, added, left = noise_sd**2, np.zeros(len(candidates), int), variance
    wanted = AIMED_AT / candidates[first].expected_regret * remaining_regret(mean, variance, variance)
    while remaining_regret(mean, variance, left) > wanted and added.sum() < MOST_SEEDS:
        gain = with_difference**2 / (np.diag(covariance) + noise)
        best = int((gain / costs).argmax())
        scale = covariance[best, best] + noise
        left = max(left - float(gain[best]), 0.0)
        with_difference = with_difference - covariance[:, best] * with_difference[best] / scale
        covariance = covariance - np.outer(covariance[best], covariance[best]) / scale
        added[best] += 1
    seeds = {candidates[i].arm: int(count) for i, count in enumerate(added) if count}
    return seeds, remaining_regret(mean, variance, left) > wanted


def _is_helped_by_seeds(data: ArmData, noise_sd: float) -> bool:
    """Whether more seeds tell more of an arm: not where the evaluation grid is its error, and all cross at one."""
    return not data.firsts and data.grid_variance * data.placed < noise_sd**2


def remaining_regret(mean: float, variance: float, left: float) -> float:
    """Expected regret of the better of two whose log difference is normal, once its variance has shrunk to `left`.

    Averaged over where the mean will then be (its variance is what is gone).
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(31)
    means = np.abs(mean + math.sqrt(max(variance - left, 0.0)) * nodes)
    sd = math.sqrt(max(left, 1e-12))
    losses = sd * np.exp(-0.5 * (means / sd) ** 2) / math.sqrt(2 * math.pi) - means * special.ndtr(-means / sd)
    return float(weights @ losses / weights.sum())


def _strongest_unmeasured(result: Recommendation) -> Arm | None:
    """The arm that never reached, if it is more likely to be the best than all but the least-regret candidate."""
    rival = max(result.unmeasured, key=lambda arm: result.unmeasured[arm], default=None)
    others = max((c.p_best for c in result.candidates if c is not result.least), default=0.0)
    return rival if rival is not None and result.unmeasured[rival] > others else None


def _set_aside(drawn: JointDraws, step_times: Mapping[int, StepTime] | None, slower: Container[Arm]) -> dict[Arm, str]:
    reasons = {}
    for arm, data in zip(drawn.arms, drawn.data, strict=True):
        if 2 * data.diverged >= data.n:
            reasons[arm] = "diverged"
        elif step_times is not None and arm[1] not in step_times:
            reasons[arm] = "no step time"
        elif not data.has_reached and arm in slower:
            reasons[arm] = "shown to be slower"
    return reasons


def _log_seconds(
    arms: Sequence[Arm],
    log_examples: np.ndarray,
    step_times: Mapping[int, StepTime] | None,
    rng: np.random.Generator,
) -> np.ndarray | None:
    """log of updates times seconds per update, float [draw, arm]; arms of one TBS share its step time."""
    if step_times is None:
        return None
    drawn = {
        size: math.log(step_times[size].seconds) + step_times[size].relative_sd * rng.standard_normal(len(log_examples))
        for size in sorted({size for _, size in arms})
    }
    return log_examples + np.stack([drawn[size] - math.log(size) for _, size in arms], axis=1)


def _median(log_values: np.ndarray) -> tuple[float, Interval]:
    low, middle, high = np.exp(np.quantile(log_values, [(1 - CONFIDENCE) / 2, 0.5, (1 + CONFIDENCE) / 2]))
    return float(middle), Interval(float(low), float(high), CONFIDENCE, "joint draws")
