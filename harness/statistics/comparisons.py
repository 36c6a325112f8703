"""Does one arm need more than another, how much more, and is that established? (P16)

A ratio of 1.2 for b against a says that b needs 1.2 times what a needs to reach the target.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from scipy import special

from harness.plan.outcome import Outcome
from harness.statistics import two_sample
from harness.statistics.estimates import LEVEL, Interval, Observation, PooledSpread, with_outcome
from harness.statistics.rank_test import ratio_test
from harness.statistics.seeds_needed import SeedsNeeded, seeds_needed
from harness.statistics.two_sample import Difference

MARGIN = 0.10  # two arms whose ratio lies within this of 1 are called equivalent


class Verdict(StrEnum):
    """What is established about b against a."""

    FASTER = "faster"
    SLOWER = "slower"
    EQUIVALENT = "equivalent"  # inside the margin, whether or not the ratio is exactly 1
    NOT_ESTABLISHED = "not established"


@dataclass(frozen=True)
class Comparison:
    """The ratio of two arms with everything that its verdict rests on.

    The verdict is read off the interval: a difference is established where 1 lies outside it, an equivalence where all
    of it lies within the margin. Holm's correction may only take a verdict back.
    """

    ratio: float  # of geometric means; by ranks the one at which they balance: inf or 0 if one-sided, nan if unknown
    at_least: float  # an infinite ratio is at least this (by the stops of the trials that missed)
    at_most: float  # a ratio of 0 is at most this
    interval: Interval  # of the ratio, for this pair alone
    verdict: Verdict
    p_welch: float  # two-sided, on log (paired where `paired`); nan where ranks decide
    p_permutation: float  # two-sided, at a ratio of 1; on ranks where they decide
    permutation_exact: bool  # its whole law enumerated; else drawn, or normal
    p_equivalence: float  # the larger one-sided p of "beyond the margin"; below 2.5 % the interval lies within it
    p: float  # of a difference: below 5 % exactly where the interval excludes 1
    p_adjusted: float  # `p` after Holm's correction; `p` itself for a primary comparison
    p_equivalence_adjusted: float
    corrected_for: int  # comparisons that Holm's correction counted
    margin: float
    paired: bool  # over seeds, because the measured correlation pays
    correlation: float  # of log places over seeds, nan where unknown
    difference: Difference | None  # of mean logs; None where ranks decide
    log_sd: float  # of one trial: what an error of the ratio would shrink from with more seeds; nan where ranks decide
    log_sd_degrees: float
    n_a: int
    n_b: int
    seeds_needed: SeedsNeeded | None  # per arm, to settle it; None: decided, or ranks decide
    reason: str  # why no ratio can be excluded, whatever the places: too few trials, or none reached; else empty


@dataclass(frozen=True)
class Regret:
    """What trusting a rule costs against the tuned envelope at one TBS: ratio - 1, which may be negative."""

    regret: float
    at_least: float  # an infinite regret is at least this
    at_most: float  # a regret of -1 is at most this
    interval: Interval  # of this rule and TBS alone
    p_adjusted: float  # of a difference, after Holm's correction
    verdict: Verdict  # of the rule against the envelope, by the corrected p values
    n_rule: int
    n_tuned: int


def compare(
    a: Sequence[Observation],
    b: Sequence[Observation],
    *,
    same_seeds: bool = False,
    spread: PooledSpread | None = None,
    margin: float = MARGIN,
) -> Comparison:
    """Compare the places of two arms; `same_seeds` says that position i of both is the same seed (see `by_seed`).

    All reached: Welch's t on the log of bracket middles. A miss anywhere, a target met at the first evaluation, or no
    spread at all: ranks, with everything beyond the earliest stop tied (rank_test.py). `spread` (pooled over arms)
    stands in for the variance of an arm of one trial, and for that of seeds to come.
    """
    data_a, data_b = with_outcome(a), with_outcome(b)
    difference, is_paired, correlation = difference_on_log(a, b, same_seeds, spread)
    if difference is None:
        return _judged(_by_ranks(data_a, data_b, margin, correlation))
    p, p_equivalence = difference.p_different(), difference.p_equivalent(math.log1p(margin))
    log_sd, degrees = difference.error / math.sqrt(1 / len(data_a) + 1 / len(data_b)), difference.degrees
    if spread is not None and not is_paired and spread.sd > 0 and spread.describes(data_a) and spread.describes(data_b):
        log_sd, degrees = spread.sd, float(spread.degrees_of_freedom)
    p_permutation, exact = two_sample.permutation_p(data_a, data_b)
    return _judged(
        Comparison(
            ratio=difference.ratio,
            at_least=difference.ratio,
            at_most=difference.ratio,
            interval=difference.ratio_interval("paired t on log" if is_paired else "Welch t on log"),
            verdict=Verdict.NOT_ESTABLISHED,
            p_welch=p,
            p_permutation=p_permutation,
            permutation_exact=exact,
            p_equivalence=p_equivalence,
            p=p,
            p_adjusted=p,
            p_equivalence_adjusted=p_equivalence,
            corrected_for=1,
            margin=margin,
            paired=is_paired,
            correlation=correlation,
            difference=difference,
            log_sd=log_sd,
            log_sd_degrees=degrees,
            n_a=len(data_a),
            n_b=len(data_b),
            seeds_needed=None,
            reason="",
        )
    )


def by_seed(a: Mapping[int, Observation], b: Mapping[int, Observation]) -> tuple[list[Observation], list[Observation]]:
    """Both arms in one order of seeds, for `compare(same_seeds=True)`; a seed that only one of them has pairs with a
    failed trial, so that it counts in the comparison of the arms but in no pair."""
    seeds = [*a, *(seed for seed in b if seed not in a)]
    absent = Observation(Outcome.FAILED, math.inf, 0.0)
    return [a.get(seed, absent) for seed in seeds], [b.get(seed, absent) for seed in seeds]


def difference_on_log(
    a: Sequence[Observation], b: Sequence[Observation], same_seeds: bool, spread: PooledSpread | None
) -> tuple[Difference | None, bool, float]:
    """The t comparison of two arms, whether it is paired, and the correlation over seeds; None where ranks decide."""
    data_a, data_b = with_outcome(a), with_outcome(b)
    correlation = math.nan
    if not (data_a and data_b and all(o.has_log for o in [*data_a, *data_b])):
        return None, False, correlation
    if same_seeds:
        pairs = [(x, y) for x, y in zip(a, b, strict=True) if x.has_log and y.has_log]
        correlation = two_sample.seed_correlation(pairs)
        is_complete = len(pairs) == len(data_a) == len(data_b)
        if is_complete and two_sample.pairing_pays(correlation, len(pairs)):
            difference = two_sample.paired(pairs)
            if difference is not None:
                return difference, True, correlation
    return two_sample.welch(data_a, data_b, spread), False, correlation


def p_slower(
    a: Sequence[Observation],
    b: Sequence[Observation],
    margin: float,
    *,
    same_seeds: bool = False,
    spread: PooledSpread | None = None,
) -> float:
    """One-sided p of "b needs at most (1 + margin) times what a needs"; nan without data.

    Below 2.5 % only where the interval of `compare` lies above 1 + margin.
    """
    data_a, data_b = with_outcome(a), with_outcome(b)
    if not (data_a and data_b):
        return math.nan
    difference, _, _ = difference_on_log(a, b, same_seeds, spread)
    found = difference or ratio_test([(data_a, data_b)])
    return found.p_slower(math.log1p(margin))


def correct(comparisons: Mapping[str, Comparison], primary: str | None = None) -> dict[str, Comparison]:
    """The declared primary comparison as it stands, the others judged again after Holm's correction.

    Differences and equivalences are corrected apart: for each kind, the chance of one false claim or more is 5 %.
    """
    exploratory = {name: result for name, result in comparisons.items() if name != primary}
    differences = holm([result.p for result in exploratory.values()])
    equivalences = holm([result.p_equivalence for result in exploratory.values()])
    corrected = [
        _judged(replace(result, p_adjusted=p, p_equivalence_adjusted=p_same, corrected_for=len(exploratory)))
        for result, p, p_same in zip(exploratory.values(), differences, equivalences, strict=True)
    ]
    return {**comparisons, **dict(zip(exploratory, corrected, strict=True))}


def regrets(
    pairs: Mapping[str, tuple[Sequence[Observation], Sequence[Observation]]], spread: PooledSpread | None = None
) -> dict[str, Regret]:
    """How much more a rule's LR needs than the LR tuned at the same TBS, by seeds that did not choose that LR.

    `pairs`: (rule, tuned) of everything that one report compares; verdicts are corrected for their number.
    """
    judged = correct({name: compare(tuned, rule, spread=spread) for name, (rule, tuned) in pairs.items()})
    return {
        name: Regret(
            result.ratio - 1,
            result.at_least - 1,
            result.at_most - 1,
            replace(result.interval, low=result.interval.low - 1, high=result.interval.high - 1),
            result.p_adjusted,
            result.verdict,
            result.n_b,
            result.n_a,
        )
        for name, result in judged.items()
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """Step-down adjusted p values in the given order (Holm 1979); nan is a test that was not made."""
    adjusted, running = list(p_values), 0.0
    order = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    for rank, (p, i) in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p))
        adjusted[i] = running
    return adjusted


def p_mean_below(values: Sequence[float], threshold: float) -> float:
    """One-sided t-test that the mean over runs is below `threshold`, the speed-runs' rule; nan below two runs."""
    data = np.asarray(values, float)
    if len(data) < 2 or not np.isfinite(data).all():
        return math.nan
    if float(np.ptp(data)) == 0:  # also where rounding leaves the sd of equal values a little above 0
        return float(data[0] >= threshold)
    distance, error = float(data.mean()) - threshold, float(data.std(ddof=1)) / math.sqrt(len(data))
    return float(special.stdtr(len(data) - 1, distance / error))


def _by_ranks(a: Sequence[Observation], b: Sequence[Observation], margin: float, correlation: float) -> Comparison:
    found = ratio_test([(a, b)])
    p, p_equivalence = found.p_different, found.p_equivalent(math.log1p(margin))
    return Comparison(
        ratio=found.ratio,
        at_least=found.bounds[0],
        at_most=found.bounds[1],
        interval=found.interval,
        verdict=Verdict.NOT_ESTABLISHED,
        p_welch=math.nan,
        p_permutation=found.p_at_one if a and b else math.nan,
        permutation_exact=found.is_exact,
        p_equivalence=p_equivalence,
        p=p if a and b else math.nan,
        p_adjusted=p if a and b else math.nan,
        p_equivalence_adjusted=p_equivalence,
        corrected_for=1,
        margin=margin,
        paired=False,
        correlation=correlation,
        difference=None,
        log_sd=math.nan,
        log_sd_degrees=0.0,
        n_a=len(a),
        n_b=len(b),
        seeds_needed=None,
        reason=found.reason,
    )


def _judged(result: Comparison) -> Comparison:
    """The verdict by the interval and the adjusted p values, and the seeds still needed where there is none."""
    interval, log_margin = result.interval, math.log1p(result.margin)
    is_within = -log_margin <= _log(interval.low) and _log(interval.high) <= log_margin
    verdict, seeds = Verdict.NOT_ESTABLISHED, None
    if result.p_equivalence_adjusted < LEVEL / 2 and is_within:
        verdict = Verdict.EQUIVALENT
    elif result.p_adjusted < LEVEL and 1 not in interval:
        verdict = Verdict.SLOWER if interval.low > 1 else Verdict.FASTER
    elif result.difference is not None:
        level = LEVEL / result.corrected_for  # what the smallest p of the family has to meet
        seeds = seeds_needed(result.difference, result.log_sd, result.log_sd_degrees, log_margin, level)
    return replace(result, verdict=verdict, seeds_needed=seeds)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf
