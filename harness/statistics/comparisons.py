"""Does one arm need more than another, how much more, and is that established? (P16)

A ratio of 1.2 for b against a says that b needs 1.2 times what a needs to reach the target.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from scipy import special

from harness.statistics import two_sample
from harness.statistics.estimates import Interval, Observation, PooledSpread, inverted_cdf, with_outcome

MARGIN = 0.10  # two arms whose ratio lies within this of 1 are called equivalent


class Verdict(StrEnum):
    """What is established about b against a."""

    FASTER = "faster"
    SLOWER = "slower"
    EQUIVALENT = "equivalent"  # inside the margin, whether or not the ratio is exactly 1
    NOT_ESTABLISHED = "not established"


@dataclass(frozen=True)
class Comparison:
    """The ratio of two arms with everything that its verdict rests on."""

    ratio: float  # of geometric means; of medians where a trial missed, nan where both medians are misses
    interval: Interval  # of the ratio, for this pair alone
    verdict: Verdict
    p_welch: float  # two-sided, on log (paired where `paired`); nan where a trial missed
    p_permutation: float  # two-sided; on ranks where a trial missed
    permutation_exact: bool  # every partition enumerated; else drawn
    p_equivalence: float  # two one-sided tests against the margin; nan where a trial missed
    p: float  # decides a difference: Welch's, or the permutation's where a trial missed
    p_adjusted: float  # `p` after Holm's correction; `p` itself for a primary comparison
    p_equivalence_adjusted: float
    corrected_for: int  # comparisons that Holm's correction counted
    margin: float
    paired: bool  # over seeds, because the measured correlation pays
    correlation: float  # of log places over seeds, nan where unknown
    log_sd: float  # of one trial: what an error of the ratio would shrink from with more seeds
    n_a: int
    n_b: int
    seeds_needed: float  # per arm, to settle it with power 0.8 if the ratio is as observed; nan: decided or unknown


@dataclass(frozen=True)
class Regret:
    """What trusting a rule costs against the tuned envelope at one TBS: ratio - 1, which may be negative."""

    regret: float
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
    """Compare the places of two arms; `same_seeds` says that position i of both is the same seed.

    All reached: Welch's t on the log of bracket middles. A miss anywhere: the permutation test on ranks and the
    interval that inverts it. `spread` (pooled over arms) stands in for the variance of an arm of one trial, and for
    that of seeds to come where a trial missed.
    """
    data_a, data_b = with_outcome(a), with_outcome(b)
    p_permutation, exact = two_sample.permutation_p(data_a, data_b)
    difference, correlation, paired = None, math.nan, False
    if data_a and data_b and all(o.reached for o in [*data_a, *data_b]):
        if same_seeds:
            pairs = [(x, y) for x, y in zip(a, b, strict=True) if x.reached and y.reached]
            correlation = two_sample.seed_correlation(pairs)
            complete = len(pairs) == len(data_a) == len(data_b)
            paired = complete and two_sample.pairing_pays(correlation, len(pairs))
            difference = two_sample.paired(pairs) if paired else None
        difference = difference or two_sample.welch(data_a, data_b, spread)
    if difference is not None:
        ratio = math.exp(difference.log_ratio)
        interval = difference.ratio_interval("paired t on log" if paired else "Welch t on log")
        p_welch, p_equivalence = difference.p_different(), difference.p_equivalent(math.log1p(margin))
        log_sd = difference.error / math.sqrt(1 / len(data_a) + 1 / len(data_b))
    else:
        ratio = _ratio_of_medians(data_a, data_b)
        interval = two_sample.shift_interval(data_a, data_b)
        p_welch, p_equivalence = math.nan, math.nan
        log_sd = spread.sd if spread is not None else math.nan
    p = p_permutation if difference is None else p_welch
    undecided = Comparison(
        ratio=ratio,
        interval=interval,
        verdict=Verdict.NOT_ESTABLISHED,
        p_welch=p_welch,
        p_permutation=p_permutation,
        permutation_exact=exact,
        p_equivalence=p_equivalence,
        p=p,
        p_adjusted=p,
        p_equivalence_adjusted=p_equivalence,
        corrected_for=1,
        margin=margin,
        paired=paired,
        correlation=correlation,
        log_sd=log_sd,
        n_a=len(data_a),
        n_b=len(data_b),
        seeds_needed=math.nan,
    )
    return _judged(undecided)


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
    distance, error = float(data.mean()) - threshold, float(data.std(ddof=1)) / math.sqrt(len(data))
    if error == 0:
        return float(distance >= 0)
    return float(special.stdtr(len(data) - 1, distance / error))


def _ratio_of_medians(a: Sequence[Observation], b: Sequence[Observation]) -> float:
    median_a, median_b = (inverted_cdf(sorted(o.middle for o in arm), 0.5) for arm in (a, b))
    if math.isinf(median_a):
        return math.nan if math.isinf(median_b) else 0.0
    return median_b / median_a


def _judged(result: Comparison) -> Comparison:
    """The verdict by the adjusted p values, and the seeds still needed where there is none."""
    if result.p_equivalence_adjusted < two_sample.LEVEL:
        verdict = Verdict.EQUIVALENT
    elif result.p_adjusted < two_sample.LEVEL and result.ratio != 1:
        verdict = Verdict.SLOWER if result.ratio > 1 else Verdict.FASTER
    else:
        verdict = Verdict.NOT_ESTABLISHED
    seeds = math.nan
    if verdict is Verdict.NOT_ESTABLISHED and 0 < result.ratio < math.inf:
        level = two_sample.LEVEL / result.corrected_for  # what the smallest p of the family has to meet
        seeds = two_sample.seeds_to_settle(math.log(result.ratio), result.log_sd, math.log1p(result.margin), level)
    return replace(result, verdict=verdict, seeds_needed=seeds)
