"""From which TBS on a target costs twice (or 1.2 times) the data, without a curve.

"E(B) is twice the cheapest arm's from X on": X is bracketed by arms. Below: the largest arm that is shown to cost less
than twice every other arm. Above: stepping down from the largest arm, the last one still shown to cost more than twice
some smaller arm. Neither end assumes a shape of E(B), except that it does not come back down beyond X.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy.optimize import isotonic_regression

from harness.statistics.dunnett import dunnett_quantile
from harness.statistics.estimates import CONFIDENCE, Observation
from harness.statistics.levels import Level, levels

TAIL = (1 - CONFIDENCE) / 2  # of either end
LEAST_LOG = -700.0  # of a place: what stands for the log of 0
BY_TESTS = "t below, Dunnett above"
BY_NEIGHBOURS = "arms next to it, no replicates"

Weights = Mapping[int, float]  # of arms, summing to 1: what others are compared with


class Status(StrEnum):
    """What the sweep shows of the TBS from which the target costs `factor` times as much."""

    BETWEEN = "between"  # both ends are shown
    AT_LEAST = "at least"  # only the lower end
    AT_MOST = "at most"  # only the upper end
    NOT_IN_SWEEP = "not within the sweep"  # even its largest arm is shown to cost less
    NOT_SHOWN = "not shown"


_STATUS = {
    (True, True): Status.BETWEEN,
    (True, False): Status.AT_LEAST,
    (False, True): Status.AT_MOST,
    (False, False): Status.NOT_SHOWN,
}


@dataclass(frozen=True)
class CostRise:
    """The TBS X from which the target costs `factor` times the reference's data, bracketed by TBS of the sweep."""

    factor: float
    reference: float  # TBS: the cheapest arm, or the one asked for; nan where no arm reached in every trial
    is_cheapest: bool  # the reference was not asked for
    value: float  # where the isotonic line crosses; nan where it does not within the sweep
    low: float  # X is above this TBS; 0 where nothing is shown
    high: float  # X is at most this TBS; infinity where nothing is shown
    coverage: float  # of (low, high]; nan without replicates
    method: str
    status: Status


def cost_rise(
    arms: Mapping[int, Sequence[Observation]], factor: float = 2.0, reference: float | None = None
) -> CostRise:
    """Where `factor` times the data of the cheapest arm, or of the TBS `reference`, is needed.

    Places are data (examples or epochs). An arm with a miss is only known to cost at least its stops: it never
    serves as the cheaper one. One that met the target at a first evaluation is only known to cost at most that: nothing
    is shown to cost less than twice of it, and it is never shown to cost more. A `reference` between two arms is read
    log-linearly between them. ValueError for a factor <= 1 or a reference outside the sweep.
    """
    if not factor > 1:
        raise ValueError(f"the factor must be > 1, not {factor:g}")
    by_size = dict(sorted(levels(arms).items()))
    reached = {size: level for size, level in by_size.items() if not level.is_at_least}
    if not reached or (reference in by_size and reference not in reached):
        start = math.nan if reference is None else float(reference)
        return CostRise(factor, start, reference is None, math.nan, 0.0, math.inf, math.nan, "", Status.NOT_SHOWN)
    if reference is None:
        cheapest = min(reached, key=lambda size: reached[size].mean)
        start, base = float(cheapest), {cheapest: 1.0}
        against: list[Weights] = [{size: 1.0} for size in by_size]
    else:
        start, base = float(reference), _interpolation(list(reached), float(reference))
        against = [base]
    crossing, before, after = _isotonic_crossing(by_size, start, base, math.log(factor))
    is_bounded = any(by_size[size].is_at_most for size in base)  # the reference may cost less: X may lie lower
    if is_bounded:
        crossing, before = math.nan, 0.0
    if any(level.degrees for level in reached.values()):
        low = max((s for s in reached if _is_below(by_size, s, against, factor)), default=0.0)
        high = _upper_end(by_size, reached, None if reference is None else (start, base), factor)
        low = max(low, start) if reference is not None and not is_bounded else low
        coverage, method = CONFIDENCE, BY_TESTS
    else:
        low, high, coverage, method = before, after, math.nan, BY_NEIGHBOURS
    status = Status.NOT_IN_SWEEP if low >= max(by_size) else _STATUS[low > 0, high < math.inf]
    known = math.isfinite(crossing) and status is not Status.NOT_IN_SWEEP
    value = min(max(crossing, low), high) if known else math.nan
    return CostRise(factor, start, reference is None, value, float(low), float(high), coverage, method, status)


def _is_below(by_size: Mapping[int, Level], size: int, against: Sequence[Weights], factor: float) -> bool:
    """Whether an arm is shown to cost less than `factor` times each of `against`, one-sided t."""
    others = [weights for weights in against if weights != {size: 1.0}]
    if not by_size[size].is_measured or any(by_size[other].is_at_most for weights in others for other in weights):
        return False
    return all(
        distance < -dunnett_quantile(1, degrees, TAIL) * error or error == 0 > distance
        for weights in others
        for distance, error, degrees in [_contrast(by_size, size, weights, factor)]
    )


def _upper_end(
    by_size: Mapping[int, Level],
    reached: Mapping[int, Level],
    reference: tuple[float, Weights] | None,
    factor: float,
) -> float:
    """The last arm, stepping down from the largest, that is shown to cost more than `factor` times a smaller one."""
    end = math.inf
    for size in sorted(by_size, reverse=True):
        if reference is None:
            against: list[Weights] = [{smaller: 1.0} for smaller in reached if smaller < size]
        else:
            against = [reference[1]] if size > reference[0] else []
        contrasts = [_contrast(by_size, size, weights, factor) for weights in against]
        if by_size[size].is_at_most or not any(
            distance > dunnett_quantile(len(against), degrees, TAIL) * error or error == 0 < distance
            for distance, error, degrees in contrasts
        ):
            break
        end = size
    return end


def _contrast(by_size: Mapping[int, Level], size: int, weights: Weights, factor: float) -> tuple[float, float, float]:
    """log of an arm's cost over `factor` times the weighted (geometric) mean of others, its error, and degrees."""
    arm = by_size[size]
    distance = arm.mean - math.log(factor) - math.fsum(w * by_size[other].mean for other, w in weights.items())
    shares = {**{other: -w for other, w in weights.items()}, size: 1.0 - weights.get(size, 0.0)}
    variance = math.fsum(share**2 * by_size[other].variance for other, share in shares.items())
    return distance, math.sqrt(variance), min(by_size[other].degrees for other in shares)


def _interpolation(sizes: Sequence[int], reference: float) -> Weights:
    """The arms around a TBS, weighted by their distance in log TBS."""
    if not sizes[0] <= reference <= sizes[-1]:
        raise ValueError(
            f"the reference TBS must lie within the arms that reached the target, {sizes[0]:,} to {sizes[-1]:,}, "
            f"not {reference:,.6g}"
        )
    if reference in sizes:
        return {int(reference): 1.0}
    after = next(i for i, size in enumerate(sizes) if size > reference)
    low, high = sizes[after - 1], sizes[after]
    share = math.log(reference / low) / math.log(high / low)
    return {low: 1 - share, high: share}


def _isotonic_crossing(
    by_size: Mapping[int, Level], start: float, base: Weights, log_factor: float
) -> tuple[float, float, float]:
    """Where the least rise that never falls, from the reference upwards, comes to the factor: infinity if it does not.

    Also the measured TBS below and the TBS above it. An arm with misses stands at its stops.
    """
    sizes = [size for size in by_size if size > start]
    level = math.fsum(w * by_size[size].mean for size, w in base.items())
    variance = math.fsum(w * w * by_size[size].variance for size, w in base.items())
    wanted = level + log_factor
    means = np.array([level, *(by_size[size].mean for size in sizes)])
    top = max(wanted, LEAST_LOG, *means[np.isfinite(means)])  # an arm that diverged crosses at its TBS
    means = np.clip(means, LEAST_LOG, top)
    variances = np.array([variance, *(by_size[size].variance for size in sizes)])
    even = not np.isfinite(variances).all() or not (variances > 0).all()
    line = isotonic_regression(means, weights=np.ones(len(means)) if even else 1 / variances).x
    wanted = float(line[0]) + log_factor
    edges = [start, *map(float, sizes)]
    above = next((i for i, mean in enumerate(line) if mean >= wanted - 1e-12), None)
    below = [
        start,
        *(float(size) for size in sizes[: None if above is None else above - 1] if not by_size[size].is_at_least),
    ]
    if above is None:
        return math.inf, max(below), math.inf
    share = (wanted - line[above - 1]) / (line[above] - line[above - 1])
    return edges[above - 1] * (edges[above] / edges[above - 1]) ** float(share), max(below), edges[above]
