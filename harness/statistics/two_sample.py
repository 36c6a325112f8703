"""Tests and intervals for two samples of trials that all reached: Welch, pairing, permutation (P16).

Everything is on the log of the place; a difference d of logs is a ratio exp(d) of b over a. Where a trial missed, or
met the target at its first evaluation, ranks decide: rank_test.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import special

from harness.statistics.estimates import CONFIDENCE, Interval, Observation, PooledSpread, grid_variance

LARGEST_LOG = 700.0  # exp of more is no float
TIED = 1e-9  # logs that differ by less are rounding errors of one value
DRAWN_AT_ONCE = 1_000  # partitions held in memory
MOST_PARTITIONS = 20_000  # the permutation test enumerates up to here (8 against 8 trials: 12,870), then draws


@dataclass(frozen=True)
class Difference:
    """A difference of mean logs, its standard error and the degrees of freedom of that error."""

    log_ratio: float
    error: float
    degrees: float

    @property
    def ratio(self) -> float:
        return math.exp(min(self.log_ratio, LARGEST_LOG))

    def p_different(self) -> float:
        """Two-sided p of the null that the ratio is 1."""
        return 2 * float(special.stdtr(self.degrees, -abs(self._t(self.log_ratio))))

    def p_equivalent(self, log_margin: float) -> float:
        """TOST (Schuirmann 1987): p of the null that the ratio is outside exp(+-log_margin)."""
        return float(special.stdtr(self.degrees, -self._t(log_margin - abs(self.log_ratio))))

    def p_slower(self, log_margin: float) -> float:
        """One-sided p of the null that the ratio is at most exp(log_margin)."""
        return float(special.stdtr(self.degrees, -self._t(self.log_ratio - log_margin)))

    def ratio_interval(self, method: str, confidence: float = CONFIDENCE) -> Interval:
        """The t interval, as a ratio."""
        half = float(special.stdtrit(self.degrees, (1 + confidence) / 2)) * self.error
        low, high = (math.exp(min(self.log_ratio + end, LARGEST_LOG)) for end in (-half, half))
        return Interval(low, high, confidence, method)

    def _t(self, distance: float) -> float:
        if self.error > 0:
            return distance / self.error
        return math.copysign(math.inf, distance) if distance else 0.0


def welch(a: Sequence[Observation], b: Sequence[Observation], spread: PooledSpread | None = None) -> Difference | None:
    """Welch's difference of mean logs for trials that all have one (`has_log`).

    An arm of one trial takes its variance from `spread`. None where there is no error to judge by: without a usable
    spread, or where every trial of both arms lies at one place that no evaluation grid explains.
    """
    usable = spread is not None and spread.degrees_of_freedom > 0 and spread.homogeneous
    if min(len(a), len(b)) < 2 and not usable:
        return None
    (mean_a, variance_a, degrees_a), (mean_b, variance_b, degrees_b) = (_mean_and_error(arm, spread) for arm in (a, b))
    variance = variance_a + variance_b
    if variance == 0:
        return None
    if max(len(a), len(b)) < 2:  # one pooled variance twice is still one estimate
        degrees = float(max(degrees_a, degrees_b))
    else:
        share = variance_a / variance
        degrees = 1 / (share**2 / degrees_a + (1 - share) ** 2 / degrees_b)
    return Difference(mean_b - mean_a, math.sqrt(variance), degrees)


def paired(pairs: Sequence[tuple[Observation, Observation]]) -> Difference | None:
    """The difference over at least two pairs of the same seed; None where it is the same in all of them."""
    differences = np.array([math.log(b.middle) - math.log(a.middle) for a, b in pairs])
    grid = grid_variance([a for a, _ in pairs]) + grid_variance([b for _, b in pairs])
    variance = _variance_of_mean(differences, grid)
    return Difference(float(differences.mean()), math.sqrt(variance), len(pairs) - 1) if variance > 0 else None


def seed_correlation(pairs: Sequence[tuple[Observation, Observation]]) -> float:
    """Pearson's correlation of log places over seeds; nan below three pairs or without spread."""
    if len(pairs) < 3:
        return math.nan
    logs = np.log([[a.middle, b.middle] for a, b in pairs])
    if float(np.ptp(logs, axis=0).min()) <= TIED:
        return math.nan
    deviations = logs - logs.mean(axis=0)
    scale = math.sqrt(float(np.prod(np.sum(deviations**2, axis=0))))
    return min(1.0, max(-1.0, float(deviations[:, 0] @ deviations[:, 1]) / scale))


def pairing_pays(correlation: float, pairs: int) -> bool:
    """Whether pairing n seeds shortens the interval although it halves the degrees of freedom.

    It does above rho = 1 - (t_{2n-2} / t_{n-1})^2. The measured rho is noisy, and choosing the shorter of two
    intervals undercovers: its lower 95 % bound (Fisher's z) must be above.
    """
    if pairs < 4 or math.isnan(correlation) or correlation <= 0:
        return False
    bounded = max(-1 + 1e-12, min(correlation, 1 - 1e-12))  # ties can make it exactly 1 or -1
    z = math.atanh(bounded) - float(special.ndtri(CONFIDENCE)) / math.sqrt(pairs - 3)
    t_unpaired, t_paired = (float(special.stdtrit(df, (1 + CONFIDENCE) / 2)) for df in (2 * pairs - 2, pairs - 1))
    return math.tanh(z) > 1 - (t_unpaired / t_paired) ** 2


def permutation_p(a: Sequence[Observation], b: Sequence[Observation]) -> tuple[float, bool]:
    """Two-sided p of the permutation test on the difference of mean logs, and whether it is exact.

    For trials that all have a log; nan for an empty arm.
    """
    if not (a and b):
        return math.nan, False
    scores = np.log([o.middle for o in [*a, *b]])
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


def _mean_and_error(arm: Sequence[Observation], spread: PooledSpread | None) -> tuple[float, float, int]:
    """Mean log, its squared standard error and degrees of freedom; `spread` serves an arm of one trial."""
    logs = np.array([math.log(o.middle) for o in arm])
    if len(arm) > 1:
        return float(logs.mean()), _variance_of_mean(logs, grid_variance(arm)), len(arm) - 1
    assert spread is not None
    return float(logs.mean()), max(spread.sd**2, grid_variance(arm)), spread.degrees_of_freedom


def _variance_of_mean(logs: np.ndarray, grid: float) -> float:
    """Squared standard error of a mean of bracket middles.

    Trials that all crossed at one evaluation share its rounding error, which no number of them averages out.
    """
    return float(logs.var(ddof=1)) / len(logs) if np.ptp(logs) > TIED else grid
