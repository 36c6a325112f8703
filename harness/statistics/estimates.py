"""What the trials of one arm say: counts, reach rate, quantiles with intervals that name their method (P15).

The places estimated are the recorded ones: the first evaluation at which the target held, in the unit the caller
uses (examples, epochs or steps). Misses count as +infinity; a trial of `failed` outcome does not count at all. A mean
over successes only is offered nowhere.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy import special, stats

from harness.plan.outcome import Outcome

CONFIDENCE = 0.95
LEVEL = 0.05  # of a test: a p below it rejects; not 1 - CONFIDENCE, which is a little more
HOMOGENEITY_LEVEL = 0.05  # below this p, the arms are not believed to share one variance
NOISIER_LEVEL = 0.2  # below this p, an arm is taken to be noisier than the others; simulated: docs/statistics.md


@dataclass(frozen=True)
class Observation:
    """How one trial ended and where: the target was met in (low, value], or not before `low`.

    At place 0 it was met before training. A place that is not a number, or below 0, is unknown and counts as a miss.
    """

    outcome: Outcome
    value: float  # the evaluation that crossed (right edge of the bracket); math.inf if not reached
    low: float  # the evaluation before it (left edge); where a trial that did not reach stopped

    @property
    def reached(self) -> bool:
        return self.outcome is Outcome.REACHED and 0 <= self.value < math.inf

    @property
    def has_log(self) -> bool:
        """Whether its place has a logarithm to speak of: one met at the first evaluation may lie anywhere down to 0."""
        return self.reached and self.left > 0

    @property
    def place(self) -> float:
        """The recorded crossing, +infinity for every kind of miss."""
        return self.value if self.reached else math.inf

    @property
    def left(self) -> float:
        """Left edge of the bracket: the place itself where no usable edge is known."""
        return self.low if self.reached and 0 <= self.low <= self.value else self.place

    @property
    def middle(self) -> float:
        """Middle of the bracket: fits and ratios use it, since right edges flatter the slower arm (P14)."""
        return self.left + (self.place - self.left) / 2 if self.reached else math.inf

    @property
    def width(self) -> float:
        """Width of the bracket, 0 where there is none."""
        return self.place - self.left if self.reached else 0.0

    @property
    def at_least(self) -> float:
        """What is certain: the crossing is not before this. A diverged trial never crosses."""
        if self.reached or self.outcome is Outcome.DIVERGED:
            return self.place
        return self.low if self.low > 0 else 0.0


@dataclass(frozen=True)
class Interval:
    """An interval that says what it is; `coverage` is what `method` promises, not a wish."""

    low: float
    high: float
    coverage: float
    method: str

    @property
    def is_everything(self) -> bool:
        """Whether it excludes nothing; `method` says why."""
        return self.low <= 0 and self.high == math.inf

    @property
    def label(self) -> str:
        """As printed beside the numbers: `order statistics 97 %`."""
        if self.coverage == 1:  # everything is allowed: the method says why
            return self.method
        return f"{self.method} {min(99, round(100 * self.coverage))} %"

    def __contains__(self, number: float) -> bool:
        return self.low <= number <= self.high


def scaled(found: Observation, factor: float) -> Observation:
    """An observation in another unit, like examples for steps."""
    return replace(found, value=found.value * factor, low=found.low * factor)


NO_DATA = Interval(0.0, math.inf, 1.0, "no data")
ONE_RUN = Interval(0.0, math.inf, 1.0, "no interval from one run")


@dataclass(frozen=True)
class OutcomeCounts:
    """How the trials of one arm ended, none dropped."""

    reached: int
    missed: int  # the budget ended first
    dominated: int
    diverged: int
    failed: int  # not in n: infrastructure, run again

    @property
    def n(self) -> int:
        return self.reached + self.missed + self.dominated + self.diverged


@dataclass(frozen=True)
class ReachRate:
    """Share of trials that reached the target; nan for n = 0."""

    rate: float
    reached: int
    n: int
    interval: Interval  # Clopper-Pearson: covers at least 95 % everywhere
    wilson: Interval  # narrower; covers 95 % on average over rates only


@dataclass(frozen=True)
class QuantileEstimate:
    """A quantile over seeds, misses at +infinity. `at_least` is below `value` only where stopped trials hide it."""

    quantile: float
    value: float
    at_least: float  # what the quantile would be at least, had every stopped trial gone on: "> 40" for a miss
    interval: Interval
    n: int
    reached: int


@dataclass(frozen=True)
class PooledSpread:
    """Standard deviation of log place within an arm, pooled over arms; about the coefficient of variation."""

    sd: float
    degrees_of_freedom: int
    homogeneous_p: float  # Bartlett's test that the arms share one variance
    arms: int

    @property
    def homogeneous(self) -> bool:
        return self.homogeneous_p >= HOMOGENEITY_LEVEL

    def describes(self, data: Sequence[Observation]) -> bool:
        """Whether the arms share one variance and these trials, which all reached, are no noisier than that."""
        if not (self.homogeneous and self.degrees_of_freedom > 0):
            return False
        own = log_variance(data)
        if own <= self.sd**2:
            return True
        p = special.fdtrc(len(data) - 1, self.degrees_of_freedom, own / max(self.sd**2, 1e-300))
        return bool(p >= NOISIER_LEVEL)


def with_outcome(observations: Iterable[Observation]) -> list[Observation]:
    """The trials that are data: all but the failed ones."""
    return [observation for observation in observations if observation.outcome.is_data]


def count_outcomes(observations: Iterable[Observation]) -> OutcomeCounts:
    """Every trial once; one that claims to have reached an unknown place is a miss."""
    counts = dict.fromkeys(Outcome, 0)
    for observation in observations:
        claims = observation.outcome is Outcome.REACHED and not observation.reached
        counts[Outcome.CENSORED if claims else observation.outcome] += 1
    return OutcomeCounts(
        reached=counts[Outcome.REACHED],
        missed=counts[Outcome.CENSORED],
        dominated=counts[Outcome.DOMINATED],
        diverged=counts[Outcome.DIVERGED],
        failed=counts[Outcome.FAILED],
    )


def reach_rate(observations: Iterable[Observation]) -> ReachRate:
    """Reached over all data, with two 95 % intervals.

    A dominated trial might have reached its target: it is a miss in the rate and in the lower ends, and counts as
    reached in the upper ends.
    """
    counts = count_outcomes(observations)
    k, n, could = counts.reached, counts.n, counts.reached + counts.dominated
    if n == 0:
        nothing = Interval(0.0, 1.0, 1.0, "no data")
        return ReachRate(math.nan, 0, 0, nothing, nothing)
    exact = Interval(clopper_pearson(k, n)[0], clopper_pearson(could, n)[1], CONFIDENCE, "Clopper-Pearson")
    wilson_interval = Interval(wilson(k, n)[0], wilson(could, n)[1], CONFIDENCE, "Wilson")
    return ReachRate(k / n, k, n, exact, wilson_interval)


def clopper_pearson(k: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Exact binomial interval of k successes in n >= 1 (Clopper and Pearson 1934)."""
    tail = (1 - confidence) / 2
    low = float(special.betaincinv(k, n - k + 1, tail)) if k else 0.0
    high = float(special.betaincinv(k + 1, n - k, 1 - tail)) if k < n else 1.0
    return low, high


def wilson(k: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Score interval of k successes in n >= 1 (Wilson 1927)."""
    z = float(special.ndtri((1 + confidence) / 2))
    centre = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    return max(0.0, centre - half), min(1.0, centre + half)


def inverted_cdf(ordered: Sequence[float], quantile: float) -> float:
    """The smallest value whose share of values at or below it is >= `quantile`; never averages, so infinity is fine."""
    if not ordered:
        return math.nan
    rank = math.ceil(len(ordered) * quantile - 1e-9)  # 0.7 * 10 is a little more than 7
    return ordered[min(max(rank, 1), len(ordered)) - 1]


def median_of(ordered: Sequence[float]) -> float:
    """Of places in ascending order: the middle one, or the geometric mean of the two middle ones (P15).

    Infinite where the upper of those two is a miss: then it is at least the lower.
    """
    if not ordered:
        return math.nan
    lower, upper = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return upper if lower == upper or math.isinf(upper) else math.sqrt(lower) * math.sqrt(upper)


def median_estimate(observations: Iterable[Observation], spread: PooledSpread | None = None) -> QuantileEstimate:
    """The median over seeds with the interval P15 asks for; see `quantile_estimate`."""
    return quantile_estimate(observations, 0.5, spread)


def quantile_estimate(
    observations: Iterable[Observation], quantile: float, spread: PooledSpread | None = None
) -> QuantileEstimate:
    """A quantile of the recorded places and the best interval that the trials support, in this order.

    1. order statistics, where n is enough for 95 % (n >= 6 for the median): free of assumptions;
    2. Student t on log with the variance pooled over arms (`spread`), where all reached, the arms share one variance
       and this arm does not look noisier than they do;
    3. the range of the trials with the coverage it really has (n = 3, median: 75 %); one trial has no interval.
    """
    data = with_outcome(observations)
    n, reached = len(data), sum(observation.reached for observation in data)
    places = sorted(observation.place for observation in data)
    at_least = sorted(observation.at_least for observation in data)
    if quantile == 0.5:
        value, least = median_of(places), median_of(at_least)
        least = least if math.isfinite(value) else inverted_cdf(at_least, 0.5)
    else:
        value, least = inverted_cdf(places, quantile), inverted_cdf(at_least, quantile)
    interval = ONE_RUN if n == 1 else NO_DATA
    if n > 1:
        pooled = _pooled_t(data, quantile, spread) if spread is not None else None
        low, high, coverage = order_statistic_ranks(n, quantile)
        if coverage >= CONFIDENCE:
            interval = _between(data, at_least[low - 1], places[high - 1], coverage, "order statistics")
        elif pooled is not None and value in pooled:
            interval = pooled
        else:
            interval = _between(data, at_least[0], places[-1], range_coverage(n, quantile), "range")
    return QuantileEstimate(quantile, value, least, interval, n, reached)


def _between(data: Sequence[Observation], low: float, high: float, coverage: float, method: str) -> Interval:
    """From one trial's place to another's; the low end is the left edge of its bracket where it met the target at its
    first evaluation (it may have crossed anywhere before), or where all trials crossed at one evaluation."""
    left = min(o.left if o.reached else o.at_least for o in data if o.at_least == low)
    return Interval(left if left == 0 or low == high else low, high, coverage, method)


@lru_cache(maxsize=4096)
def order_statistic_ranks(n: int, quantile: float, confidence: float = CONFIDENCE) -> tuple[int, int, float]:
    """Ranks (from 1) of the narrowest equal-tailed order-statistic interval, and its coverage; (1, n, 0) if none.

    P(X_(low) <= quantile < X_(high)) is binomial whatever the distribution; ties only add coverage.
    """
    tail = (1 - confidence) / 2
    below = stats.binom.cdf(np.arange(n), n, quantile)  # P(at most r of n lie below the quantile), r = 0 ... n - 1
    low = int(np.sum(below <= tail))  # the largest rank with P(X_(rank) > quantile) <= tail
    high = int(np.sum(below < 1 - tail)) + 1  # the smallest rank with P(X_(rank) <= quantile) <= tail
    if low < 1 or high > n:
        return 1, n, 0.0
    return low, high, float(below[high - 1] - below[low - 1])


def range_coverage(n: int, quantile: float) -> float:
    """Probability that the range of n trials holds the quantile: 1 - q^n - (1-q)^n; 0 for one trial."""
    return max(0.0, 1 - quantile**n - (1 - quantile) ** n)


def _pooled_t(data: Sequence[Observation], quantile: float, spread: PooledSpread) -> Interval | None:
    """Exact interval of a log-normal quantile from n trials and a pooled sd (non-central t; Student's for the median).

    The places are known to one evaluation interval only: both ends move outwards by half a bracket, so that the
    interval holds for the recorded place however coarse the grid is.
    """
    n, tail, degrees = len(data), (1 - CONFIDENCE) / 2, spread.degrees_of_freedom
    if not all(observation.has_log for observation in data) or not spread.describes(data):
        return None
    shift = math.sqrt(n) * float(special.ndtri(quantile))
    if quantile == 0.5:
        upper = float(special.stdtrit(degrees, 1 - tail))
        lower = -upper
    else:
        upper = float(stats.nct.ppf(1 - tail, degrees, -shift))
        lower = float(stats.nct.ppf(tail, degrees, -shift))
    error = spread.sd / math.sqrt(n)
    left = math.fsum(math.log(observation.middle) for observation in data) / n
    right = math.fsum(math.log(observation.place + observation.width / 2) for observation in data) / n
    rounding = 1e-12  # of exp and log: an interval without width must still hold its own value
    low, high = math.exp(left - upper * error - rounding), math.exp(right - lower * error + rounding)
    return Interval(low, high, CONFIDENCE, "pooled t on log")


def log_variance(data: Sequence[Observation]) -> float:
    """Sample variance of log place of trials that have one; 0 below two."""
    return float(np.var(np.log([o.middle for o in data]), ddof=1)) if len(data) > 1 else 0.0


def grid_variance(data: Sequence[Observation]) -> float:
    """Mean variance of log place from knowing each place to one evaluation interval only."""
    return float(np.mean([(o.width / o.middle) ** 2 for o in data])) / 12


def pooled_log_spread(arms: Iterable[Iterable[Observation]]) -> PooledSpread:
    """The within-arm sd of log place over all arms in which every trial reached, none at its first evaluation (a
    censored arm would understate it).

    The homogeneity test takes the variance of an arm to be no smaller than that of its evaluation grid, width^2 / 12:
    an arm whose trials all crossed at one evaluation is not evidence of a smaller spread. No usable arm: sd nan.
    """
    sums, degrees, floors = [], [], []
    for observations in arms:
        data = with_outcome(observations)
        if len(data) < 2 or not all(observation.has_log for observation in data):
            continue
        logs = np.log([observation.middle for observation in data])
        sums.append(float(np.sum((logs - logs.mean()) ** 2)))
        degrees.append(len(data) - 1)
        floors.append(grid_variance(data))
    total = sum(degrees)
    if not total:
        return PooledSpread(math.nan, 0, math.nan, 0)
    df = np.array(degrees, float)
    variances = np.maximum(np.array(sums) / df, floors)
    return PooledSpread(math.sqrt(sum(sums) / total), total, _bartlett(variances, df), len(df))


def _bartlett(variances: np.ndarray, degrees: np.ndarray) -> float:
    """p of Bartlett's test (1937) for equal variances; 1 for one arm, 0 where some but not all variances are 0."""
    arms, total = len(variances), degrees.sum()
    if arms < 2 or not variances.any():
        return 1.0
    if not variances.all():
        return 0.0
    pooled = float(degrees @ variances) / total
    statistic = total * math.log(pooled) - float(degrees @ np.log(variances))
    correction = 1 + (float(np.sum(1 / degrees)) - 1 / total) / (3 * (arms - 1))
    return float(special.chdtrc(arms - 1, max(statistic / correction, 0.0)))
