"""Reaching the target as a survival problem: the reached share over time and the mean at a cap (P15).

Only a trial whose budget ended is right-censored. A diverged trial never crosses, and a dominated one was stopped
because it was slow, which is the one thing a censored trial must not be: both stay at +infinity.
"""

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from harness.plan.outcome import Outcome
from harness.statistics.estimates import (
    CONFIDENCE,
    NO_DATA,
    Interval,
    Observation,
    clopper_pearson,
    with_outcome,
)


@dataclass(frozen=True)
class ReachCurve:
    """Kaplan-Meier: share of trials that have reached the target by each place, with a pointwise 95 % band."""

    places: tuple[float, ...]  # where a trial reached, ascending
    reached_share: tuple[float, ...]
    low: tuple[float, ...]  # Greenwood's band on log(-log) (approximate)
    high: tuple[float, ...]
    median: float  # where the share comes to one half, +infinity if it does not; interval: see quantile_estimate
    n: int
    censored: int


@dataclass(frozen=True)
class RestrictedMean:
    """Mean of min(place, cap): every miss costs the cap. Comparable between arms at the same cap only."""

    mean: float
    cap: float
    interval: Interval
    n: int
    missed: int  # of n, those that had not reached by the cap, or by their own stop before it


def reach_curve(observations: Iterable[Observation]) -> ReachCurve:
    """Kaplan and Meier's estimate; equal to the plain share of n where every budget is the same."""
    data = with_outcome(observations)
    n = len(data)
    if not n:
        return ReachCurve((), (), (), (), math.nan, 0, 0)
    reached = [observation.place for observation in data if observation.reached]
    censored = [observation.at_least for observation in data if observation.outcome is Outcome.CENSORED]
    if not reached:
        return ReachCurve((), (), (), (), math.inf, n, len(censored))
    never = [2 * max([*reached, *censored]) + 1] * (n - len(reached) - len(censored))  # finite, but after everything
    survival = stats.ecdf(stats.CensoredData(uncensored=reached, right=[*censored, *never])).sf
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # where nobody is left the band is nan: filled in below
        band = survival.confidence_interval(CONFIDENCE, method="log-log")
    share = 1 - survival.probabilities
    moved = np.diff(share, prepend=0.0) > 0  # the steps: a place where only censoring happened is none
    places, share = survival.quantiles[moved], share[moved]
    low = np.maximum.accumulate(np.nan_to_num(1 - band.high.probabilities[moved], nan=0.0))
    high = np.nan_to_num(1 - band.low.probabilities[moved], nan=1.0)
    half = np.flatnonzero(share >= 0.5 - 1e-12)
    return ReachCurve(
        tuple(places.tolist()),
        tuple(share.tolist()),
        tuple(low.tolist()),
        tuple(high.tolist()),
        float(places[half[0]]) if len(half) else math.inf,
        n,
        len(censored),
    )


def restricted_mean(observations: Iterable[Observation], cap: float) -> RestrictedMean:
    """Mean of min(place, cap), the area above Kaplan and Meier's curve, with a conservative 95 % interval.

    A budget that ended before the others' crossings is censoring, as in the curve; where the latest of all trials
    ended that way, nothing is known beyond and the cap is lowered to its stop. The interval joins a Clopper-Pearson
    interval of the share that misses with a t interval of the mean of those that do not, each at 97.5 %: a plain
    t interval ignores the misses that a small sample happened not to show. Its low end takes each censored trial to
    have crossed at its stop, its high end to have missed the cap.
    """
    data = with_outcome(observations)
    stops = [observation.at_least for observation in data if observation.outcome is Outcome.CENSORED]
    known = [observation.place for observation in data if observation.reached]
    is_open = stops and len(stops) + len(known) == len(data) and max(stops) >= max(known, default=0.0)
    if is_open:
        cap = min(cap, max(stops))
    if not data:
        return RestrictedMean(math.nan, cap, NO_DATA, 0, 0)
    n, missed = len(data), len(data) - sum(place <= cap for place in known)
    early = [stop for stop in stops if stop < cap]
    optimistic = [min(place, cap) for place in [*known, *early]] + [cap] * (n - len(known) - len(early))
    pessimistic = [min(place, cap) for place in known] + [cap] * (n - len(known))
    low, high = _mean_interval(optimistic, cap)[0], _mean_interval(pessimistic, cap)[1]
    mean = min(max(_area(data, cap) if early else math.fsum(optimistic) / n, low), high)
    method = "no interval from one run" if n == 1 else "t and Clopper-Pearson"
    interval = Interval(low, high, CONFIDENCE, method) if n > 1 else Interval(0.0, cap, 1.0, method)
    return RestrictedMean(mean, cap, interval, n, missed)


def _area(data: Sequence[Observation], cap: float) -> float:
    """Area under the share that has not reached by each place, from 0 to the cap."""
    curve = reach_curve(data)
    places = np.array([0.0, *(min(place, cap) for place in curve.places), cap])
    return float(np.sum(np.diff(places) * (1 - np.array([0.0, *curve.reached_share]))))


def _mean_interval(values: Sequence[float], cap: float) -> tuple[float, float]:
    """Of the mean of min(place, cap), from trials that are all known up to the cap."""
    within = np.array([value for value in values if value < cap])
    n, reached = len(values), len(within)
    each = (1 + CONFIDENCE) / 2
    low, high = 0.0, cap  # of the mean of those that reach: nothing is known from fewer than two
    if reached > 1:
        centre = float(within.mean())
        half = float(special.stdtrit(reached - 1, (1 + each) / 2) * within.std(ddof=1)) / math.sqrt(reached)
        low, high = max(0.0, centre - half), min(cap, centre + half)
    fewest, most = clopper_pearson(n - reached, n, each)
    return low + fewest * (cap - low), high + most * (cap - high)
