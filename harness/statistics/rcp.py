"""MLPerf's arithmetic for reference convergence points (RCPs): what a submission to it would be judged by.

Source: mlcommons/training_policies, training_rules.adoc, and mlcommons/logging, rcp_checker.py. The rules text takes
the standard deviation after trimming, the checker's later code before: both are here, named.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

TEST_LEVEL = 0.05  # one-sided
LEAST_RUNS = 5  # below, dropping the fastest and the slowest leaves too little to call a mean


@dataclass(frozen=True)
class OlympicMean:
    """Mean without the fastest and the slowest `dropped` runs; nan for fewer than 5 runs, inf if a miss remains."""

    mean: float
    trimmed_sd: float  # population sd of the runs that remain (the rules text)
    untrimmed_sd: float  # population sd of all runs (the checker's code); inf with any miss
    n: int
    dropped: int  # at each end


@dataclass(frozen=True)
class ConvergencePoint:
    """A reference convergence point: olympic mean, sd and number of runs at one total batch size."""

    total_batch_size: float
    mean: float
    sd: float
    runs: int
    dropped: int = 1  # runs dropped at each end


def olympic_mean(values: Sequence[float], dropped: int = 1) -> OlympicMean:
    """MLPerf's score of a list of runs, misses at +infinity; `dropped` is 1 (4 for 3D U-Net) at each end."""
    n = len(values)
    if n < max(LEAST_RUNS, 2 * dropped + 1) or any(math.isnan(value) for value in values):
        return OlympicMean(math.nan, math.nan, math.nan, n, dropped)
    ordered = sorted(values)
    kept = ordered[dropped : n - dropped]
    if math.isinf(kept[-1]):
        return OlympicMean(math.inf, math.inf, math.inf, n, dropped)
    untrimmed = math.inf if math.isinf(ordered[-1]) else float(np.std(ordered))
    return OlympicMean(float(np.mean(kept)), float(np.std(kept)), untrimmed, n, dropped)


def fastest_accepted_mean(
    reference_mean: float, sd: float, *, submission_runs: int, reference_runs: int, dropped: int = 1
) -> float:
    """The fastest submission mean that the one-sided equal-variance t-test at 0.05 does not reject.

    Both counts are runs before dropping. The population sd enters as if it were the sample sd, as in the checker.
    """
    kept_submission, kept_reference = submission_runs - 2 * dropped, reference_runs - 2 * dropped
    degrees = kept_submission + kept_reference - 2
    if degrees < 1:
        return math.nan
    error = sd * math.sqrt(1 / kept_submission + 1 / kept_reference)
    return reference_mean - float(special.stdtrit(degrees, 1 - TEST_LEVEL)) * error


def interpolate(
    low: ConvergencePoint, high: ConvergencePoint, total_batch_size: float, submission_runs: int
) -> ConvergencePoint:
    """Mean and sd linear in TBS between two points; the checker lets 2 x submission_runs runs remain after dropping."""
    bounds = [low.total_batch_size, high.total_batch_size]
    mean = float(np.interp(total_batch_size, bounds, [low.mean, high.mean]))
    sd = float(np.interp(total_batch_size, bounds, [low.sd, high.sd]))
    return ConvergencePoint(total_batch_size, mean, sd, 2 * (submission_runs + low.dropped), low.dropped)


def pruned(points: Sequence[ConvergencePoint], submission_runs: int) -> list[ConvergencePoint]:
    """The points that judge: none below the fastest, none slower than the line between its neighbours.

    Points are compared by the fastest accepted mean, in one pass as in the checker, which leaves a set that is not
    quite the lower convex envelope.
    """

    def floor(point: ConvergencePoint) -> float:
        return fastest_accepted_mean(
            point.mean,
            point.sd,
            submission_runs=submission_runs,
            reference_runs=point.runs,
            dropped=point.dropped,
        )

    if not points:
        return []
    fastest = min(points, key=floor)
    kept = sorted(
        (point for point in points if point.total_batch_size >= fastest.total_batch_size),
        key=lambda point: point.total_batch_size,
    )
    i = 1
    while i < len(kept) - 1:
        line = interpolate(kept[i - 1], kept[i + 1], kept[i].total_batch_size, submission_runs)
        if floor(kept[i]) > floor(line):
            del kept[i]
        else:
            i += 1
    return kept
