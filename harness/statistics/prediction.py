"""What to budget for one more run: a place that it stays below with probability 0.9, all uncertainty included.

The largest of n places is exceeded by the next run with probability 1 / (n + 1), 25 % for n = 3, and a percentile of a
few trials is no better. The bound is Student's for one new value (Hahn and Meeker, Statistical Intervals, section 4.7).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy import special

from harness.statistics.estimates import Observation, PooledSpread, grid_variance, log_variance, with_outcome

SHARE = 0.9


@dataclass(frozen=True)
class PredictionBound:
    """Nine new runs of ten reach the target by `value`; infinite where that cannot be promised."""

    value: float
    at_least: float  # where `value` is infinite: the latest place or stop, which any such bound exceeds
    method: str
    n: int
    reached: int


def prediction_bound(observations: Iterable[Observation], spread: PooledSpread | None = None) -> PredictionBound:
    """For one new run of an arm: exp(mean + t s sqrt(1 + 1/n)) on log places, t the 90 % quantile of Student's law.

    s is pooled over arms (`spread`) where that describes this arm, else its own, and no less than the evaluation
    grid's. With a miss the bound is an order statistic, which takes nine trials and as many more as the misses ask for.
    """
    data = with_outcome(observations)
    n, reached = len(data), sum(o.reached for o in data)
    if not n:
        return PredictionBound(math.nan, math.nan, "no data", 0, 0)
    places, at_least = sorted(o.place for o in data), sorted(o.at_least for o in data)
    if places[0] > 0 and places[-1] < math.inf:
        found = _spread_of(data, spread)
        if found is None:
            why = "no bound from one run" if n == 1 else "no bound without spread between runs"
            return PredictionBound(math.inf, places[-1], why, n, reached)
        sd, degrees, method = found
        half = float(special.stdtrit(degrees, SHARE)) * sd * math.sqrt(1 + 1 / n)
        bound = math.exp(min(math.fsum(map(math.log, places)) / n + half, 700.0))
        return PredictionBound(bound, bound, f"prediction bound 90 %, {method}", n, reached)
    rank = math.ceil(SHARE * (n + 1) - 1e-9)  # the next run lies above this order statistic with 10 % at most
    if rank > n:
        return PredictionBound(math.inf, at_least[-1], f"no bound: {reached} of {n} reached", n, reached)
    return PredictionBound(places[rank - 1], at_least[rank - 1], "prediction bound 90 %, order statistic", n, reached)


def _spread_of(data: Sequence[Observation], spread: PooledSpread | None) -> tuple[float, float, str] | None:
    """Standard deviation of one log place, its degrees of freedom and where it comes from; None where nothing says."""
    grid = grid_variance(data)
    if spread is not None and all(o.has_log for o in data) and spread.describes(data):
        sd, degrees, source = math.sqrt(max(spread.sd**2, grid)), spread.degrees_of_freedom, "pooled spread"
    elif len(data) > 1:
        sd, degrees, source = math.sqrt(max(log_variance(data), grid)), len(data) - 1, "own spread"
    else:
        return None
    return (sd, degrees, source) if sd > 0 else None
