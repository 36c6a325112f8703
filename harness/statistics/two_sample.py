"""Tests and intervals for two samples of trials: Welch, pairing, permutation, rank inversion, power (P16).

Everything is on the log of the place; a difference d of logs is a ratio exp(d) of b over a.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
from scipy import special, stats

from harness.statistics.estimates import CONFIDENCE, Interval, Observation, PooledSpread

LEVEL = 1 - CONFIDENCE
POWER = 0.8
MOST_EXACT = 50  # trials of the smaller arm up to which the rank-sum law is enumerated
MOST_SEEDS = 10_000  # beyond, "more seeds" is no advice
DRAWN_AT_ONCE = 1_000  # partitions held in memory
MOST_PARTITIONS = 20_000  # the permutation test enumerates up to here (8 against 8 trials: 12,870), then draws


@dataclass(frozen=True)
class Difference:
    """A difference of mean logs, its standard error and the degrees of freedom of that error."""

    log_ratio: float
    error: float
    degrees: float

    def p_different(self) -> float:
        """Two-sided p of the null that the ratio is 1."""
        return 2 * float(special.stdtr(self.degrees, -abs(self._t(self.log_ratio))))

    def p_equivalent(self, log_margin: float) -> float:
        """TOST (Schuirmann 1987): p of the null that the ratio is outside exp(+-log_margin)."""
        return float(special.stdtr(self.degrees, -self._t(log_margin - abs(self.log_ratio))))

    def ratio_interval(self, method: str) -> Interval:
        """The t interval, as a ratio."""
        half = float(special.stdtrit(self.degrees, (1 + CONFIDENCE) / 2)) * self.error
        low, high = math.exp(self.log_ratio - half), math.exp(min(self.log_ratio + half, 700.0))
        return Interval(low, high, CONFIDENCE, method)

    def _t(self, distance: float) -> float:
        if self.error > 0:
            return distance / self.error
        return math.copysign(math.inf, distance) if distance else 0.0


def welch(a: Sequence[Observation], b: Sequence[Observation], spread: PooledSpread | None = None) -> Difference | None:
    """Welch's difference of mean logs for trials that all reached.

    An arm of one trial takes its variance from `spread`; without a usable one there is no error, hence None.
    """
    usable = spread is not None and spread.degrees_of_freedom > 0 and spread.homogeneous
    if min(len(a), len(b)) < 2 and not usable:
        return None
    (mean_a, variance_a, degrees_a), (mean_b, variance_b, degrees_b) = (_mean_and_error(arm, spread) for arm in (a, b))
    variance = variance_a + variance_b
    if max(len(a), len(b)) < 2 or variance == 0:  # one pooled variance twice is still one estimate
        degrees = float(max(degrees_a, degrees_b))
    else:
        degrees = variance**2 / (variance_a**2 / degrees_a + variance_b**2 / degrees_b)
    return Difference(mean_b - mean_a, math.sqrt(variance), degrees)


def paired(pairs: Sequence[tuple[Observation, Observation]]) -> Difference:
    """The difference over at least two pairs of the same seed."""
    differences = np.array([math.log(b.middle) - math.log(a.middle) for a, b in pairs])
    grid = float(np.mean([_grid_variance(a) + _grid_variance(b) for a, b in pairs]))
    return Difference(float(differences.mean()), math.sqrt(_variance_of_mean(differences, grid)), len(pairs) - 1)


def seed_correlation(pairs: Sequence[tuple[Observation, Observation]]) -> float:
    """Pearson's correlation of log places over seeds; nan below three pairs or without spread."""
    if len(pairs) < 3:
        return math.nan
    logs = np.log([[a.middle, b.middle] for a, b in pairs])
    deviations = logs - logs.mean(axis=0)
    scale = math.sqrt(float(np.prod(np.sum(deviations**2, axis=0))))
    return float(deviations[:, 0] @ deviations[:, 1]) / scale if scale > 1e-12 else math.nan


def pairing_pays(correlation: float, pairs: int) -> bool:
    """Whether pairing n seeds shortens the interval although it halves the degrees of freedom.

    It does above rho = 1 - (t_{2n-2} / t_{n-1})^2. The measured rho is noisy, and choosing the shorter of two
    intervals undercovers: its lower 95 % bound (Fisher's z) must be above.
    """
    if pairs < 4 or math.isnan(correlation):
        return False
    bounded = max(-1 + 1e-12, min(correlation, 1 - 1e-12))  # ties can make it exactly 1 or -1
    z = math.atanh(bounded) - float(special.ndtri(CONFIDENCE)) / math.sqrt(pairs - 3)
    t_unpaired, t_paired = (float(special.stdtrit(df, (1 + CONFIDENCE) / 2)) for df in (2 * pairs - 2, pairs - 1))
    return math.tanh(z) > 1 - (t_unpaired / t_paired) ** 2


def permutation_p(a: Sequence[Observation], b: Sequence[Observation]) -> tuple[float, bool]:
    """Two-sided p of the permutation test and whether it is exact; nan for an empty arm.

    The statistic is the difference of mean logs where all reached, of mean ranks (misses tied last) otherwise.
    """
    if not (a and b):
        return math.nan, False
    values = np.array([o.middle for o in [*a, *b]])
    scores = np.log(values) if np.isfinite(values).all() else stats.rankdata(values)
    scores = scores - scores.mean()
    exact = math.comb(len(scores), len(a)) <= MOST_PARTITIONS
    if exact:
        sums = scores[np.array(list(combinations(range(len(scores)), len(a))))].sum(axis=1)
    else:  # the same draws from call to call; the given partition counts as one of them
        rng, sums = np.random.default_rng(0), np.full(MOST_PARTITIONS + 1, scores[: len(a)].sum())
        for start in range(0, MOST_PARTITIONS, DRAWN_AT_ONCE):
            draws = rng.permuted(np.tile(scores, (DRAWN_AT_ONCE, 1)), axis=1)
            sums[start : start + DRAWN_AT_ONCE] = draws[:, : len(a)].sum(axis=1)
    # Centred scores: arm a's sum fixes the difference of means, in size and sign.
    return float(np.mean(np.abs(sums) >= abs(scores[: len(a)].sum()) - 1e-9)), exact


def shift_interval(a: Sequence[Observation], b: Sequence[Observation]) -> Interval:
    """The ratio interval that inverts the exact rank test (Hodges and Lehmann 1963); needs no finite place.

    A stopped trial lies anywhere beyond its stop, so the low end sorts the least possible ratios of all pairs, the
    high end the largest. Small arms get the coverage they can have: 90 % for 3 against 3.
    """
    if not (a and b):
        return Interval(0.0, math.inf, 1.0, "no data")
    least = sorted(_ratio(y.at_least, x.place, 0.0) for x in a for y in b)
    most = sorted(_ratio(y.place, x.at_least, math.inf) for x in a for y in b)
    below = _rank_sum_cdf(len(a), len(b))
    rank = max(int(np.sum(below <= LEVEL / 2)), 1)
    return Interval(least[rank - 1], most[-rank], float(max(0.0, 1 - 2 * below[rank - 1])), "rank shift")


def seeds_to_settle(log_ratio: float, log_sd: float, log_margin: float, level: float = LEVEL) -> float:
    """Seeds per arm that establish a difference or an equivalence with power 0.8, if the ratio is as observed.

    +infinity beyond 10,000: the ratio is too close to the margin, or to 1 without being inside the margin.
    """
    if not (math.isfinite(log_ratio) and log_sd >= 0):
        return math.nan
    if not settles(MOST_SEEDS, log_ratio, log_sd, log_margin, level):
        return math.inf
    low, high = 1, MOST_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if settles(middle, log_ratio, log_sd, log_margin, level) else (middle, high)
    return float(high)


def settles(seeds: int, log_ratio: float, log_sd: float, log_margin: float, level: float) -> bool:
    """Whether `seeds` per arm give power 0.8 to either claim (non-central t, two arms of equal size)."""
    degrees, error = 2 * seeds - 2, log_sd * math.sqrt(2 / seeds)
    if error == 0:
        return True

    def power(distance: float, tail: float) -> float:
        return float(stats.nct.sf(special.stdtrit(degrees, 1 - tail), degrees, distance / error))

    if power(abs(log_ratio), level / 2) >= POWER:
        return True
    inside = log_margin - abs(log_ratio)
    return inside > 0 and power(inside, level) + power(log_margin + abs(log_ratio), level) - 1 >= POWER


def _mean_and_error(arm: Sequence[Observation], spread: PooledSpread | None) -> tuple[float, float, int]:
    """Mean log, its squared standard error and degrees of freedom; `spread` serves an arm of one trial."""
    logs = np.array([math.log(o.middle) for o in arm])
    grid = float(np.mean([_grid_variance(o) for o in arm]))
    if len(arm) > 1:
        return float(logs.mean()), _variance_of_mean(logs, grid), len(arm) - 1
    assert spread is not None
    return float(logs.mean()), max(spread.sd**2, grid), spread.degrees_of_freedom


def _variance_of_mean(logs: np.ndarray, grid_variance: float) -> float:
    """Squared standard error of a mean of bracket middles.

    Trials that all crossed at one evaluation share its rounding error, which no number of them averages out.
    """
    return float(logs.var(ddof=1)) / len(logs) if np.ptp(logs) > 0 else grid_variance


def _grid_variance(observation: Observation) -> float:
    """Variance of log place from knowing it to one evaluation interval only."""
    return (observation.width / observation.middle) ** 2 / 12


def _ratio(numerator: float, denominator: float, unknown: float) -> float:
    """numerator / denominator over [0, inf]; `unknown` for inf / inf and 0 / 0."""
    if numerator == denominator and (math.isinf(numerator) or numerator == 0):
        return unknown
    if denominator == 0:
        return math.inf
    return 0.0 if math.isinf(denominator) else numerator / denominator


@lru_cache(maxsize=256)
def _rank_sum_cdf(m: int, n: int) -> np.ndarray:
    """P(U <= u), u = 0 ... m n, of Mann and Whitney's statistic: the Gaussian binomial coefficients, normalised;
    the normal law, within 0.001 of them, where both arms are large."""
    fewer, more = sorted((m, n))
    if fewer > MOST_EXACT:
        u, sd = np.arange(m * n + 1), math.sqrt(m * n * (m + n + 1) / 12)
        return special.ndtr((u + 0.5 - m * n / 2) / sd)
    counts = np.zeros(m * n + 1)
    counts[0] = 1.0
    for i in range(1, fewer + 1):  # times (1 - q^(more+i)) / (1 - q^i)
        shifted = counts.copy()
        shifted[more + i :] -= counts[: max(0, len(counts) - more - i)]
        rows = np.concatenate([shifted, np.zeros(-len(shifted) % i)]).reshape(-1, i)
        counts = rows.cumsum(axis=0).ravel()[: len(shifted)]
    return np.cumsum(counts) / math.comb(m + n, m)
