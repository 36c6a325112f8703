"""The best LR at each TBS, the power of TBS it follows, and the rules with that exponent (P16)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from harness.statistics.estimates import CONFIDENCE, Interval


@dataclass(frozen=True)
class BestLr:
    """The LR of a grid that reaches the target first at one TBS."""

    total_batch_size: int
    lr: float  # nan where no LR of the grid reaches
    at_edge: bool  # the optimum may lie beyond the grid: extend it


@dataclass(frozen=True)
class LrExponent:
    """p of best LR ~ TBS^p."""

    exponent: float
    interval: Interval  # t, from the scatter of the points about the line
    admits: tuple[str, ...]  # the rules whose exponent lies in the interval
    points: int
    left_out: tuple[int, ...]  # TBS whose optimum is at the edge of its grid: a bound, not a value


def best_lr(total_batch_size: int, places: Mapping[float, float]) -> BestLr:
    """Pick from {LR: place, misses at +infinity}; LRs that tie give their geometric middle."""
    reached = {lr: place for lr, place in places.items() if 0 <= place < math.inf}
    if not reached:
        return BestLr(total_batch_size, math.nan, True)
    best = [lr for lr, place in reached.items() if place == min(reached.values())]
    at_edge = min(best) == min(places) or max(best) == max(places)
    lr = best[0] if len(best) == 1 else math.exp(math.fsum(map(math.log, best)) / len(best))
    return BestLr(total_batch_size, lr, at_edge)


def lr_exponent(points: Sequence[BestLr], exponents: Mapping[str, float], grid_factor: float = 1.0) -> LrExponent:
    """Fit log best LR against log TBS; `exponents` are those of the rules, `grid_factor` the ratio of neighbouring LRs.

    A best LR is known to its grid only, so the scatter is taken to be at least that of the grid. Fewer than three
    points give no interval.
    """
    used = [point for point in points if not point.at_edge and 0 < point.lr < math.inf]
    left_out = tuple(point.total_batch_size for point in points if point not in used)
    x = np.log2([point.total_batch_size for point in used])
    y = np.log2([point.lr for point in used])
    unknown = Interval(-math.inf, math.inf, 1.0, "no interval below three points")
    if len(used) < 2 or np.ptp(x) == 0:
        return LrExponent(math.nan, unknown, tuple(exponents), len(used), left_out)
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    if len(used) == 2:
        return LrExponent(slope, unknown, tuple(exponents), 2, left_out)
    residuals = y - y.mean() - slope * centred
    degrees = len(used) - 2
    variance = max(float(residuals @ residuals) / degrees, math.log2(grid_factor) ** 2 / 12)
    half = float(special.stdtrit(degrees, (1 + CONFIDENCE) / 2)) * math.sqrt(variance / float(centred @ centred))
    interval = Interval(slope - half, slope + half, CONFIDENCE, "t")
    admits = tuple(rule for rule, exponent in exponents.items() if exponent in interval)
    return LrExponent(slope, interval, admits, len(used), left_out)
