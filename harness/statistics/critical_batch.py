"""Where a bigger batch stops paying: the critical batch size by three definitions, and the steps-examples front.

A definition is printed with its number: E_min/S_min of a hyperbola and "20 % overhead" differ by a factor of five for
the same data. A number is only given where the sweep shows it; otherwise a bound, or "not identified".
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy.optimize import isotonic_regression

from harness.statistics.estimates import CONFIDENCE, NO_DATA, Interval
from harness.statistics.fit_likelihood import ArmMeans, Arms, arm_means, profile
from harness.statistics.fit_models import Model, Shapes

OVERHEAD = 0.2
FURTHEST = 2.0  # an interval may leave the sweep by this factor before it is extrapolation
BOOTSTRAP_DRAWS = 1000


class Status(StrEnum):
    """What the sweep shows of a batch size."""

    IDENTIFIED = "identified"
    AT_LEAST = "at least"  # only the low end of the interval is supported
    AT_MOST = "at most"  # only the high end
    NOT_IDENTIFIED = "not identified"


@dataclass(frozen=True)
class CriticalBatchSize:
    """A batch size, what it is, and whether the data support it."""

    definition: str
    value: float  # nan unless identified
    interval: Interval  # one-sided where the status is a bound
    status: Status

    def __str__(self) -> str:
        if self.status is Status.IDENTIFIED:
            return f"{self.value:,.0f} ({self.interval.low:,.0f} to {self.interval.high:,.0f}, {self.interval.label})"
        if self.status is Status.NOT_IDENTIFIED:
            return str(self.status)
        return f"{self.status} {self.interval.low if self.status is Status.AT_LEAST else self.interval.high:,.0f}"


@dataclass(frozen=True)
class FrontPoint:
    """What one TBS costs in updates and in examples."""

    total_batch_size: float
    steps: float
    examples: float


@dataclass(frozen=True)
class Front:
    """Steps against examples: the measured arms, and the hyperbola (S/S_min - 1)(E/E_min - 1) = 1 through them."""

    arms: tuple[FrontPoint, ...]  # no other arm needs both fewer steps and fewer examples
    dominated: tuple[FrontPoint, ...]  # some other arm does
    curve: tuple[FrontPoint, ...]  # empty where no hyperbola can be fitted
    corner: FrontPoint | None  # at B_crit: twice S_min and twice E_min; None where B_crit is not identified


def critical_batch_sizes(
    arms: Arms, *, overhead: float = OVERHEAD, reference: float | None = None, model: Model = Model.HYPERBOLA
) -> tuple[CriticalBatchSize, ...]:
    """By E_min/S_min, by overhead over a reference TBS (default: the smallest that reached), and without a model."""
    return (
        critical_by_hyperbola(arms),
        critical_by_overhead(arms, overhead, reference, model),
        critical_by_isotonic(arms, overhead, reference),
    )


def critical_by_hyperbola(arms: Arms) -> CriticalBatchSize:
    """McCandlish et al. 2018: B_crit = E_min / S_min, where E is 2 E_min and S is 2 S_min."""
    definition = "E_min / S_min of the hyperbola E = E_min (1 + B / B_crit): there E = 2 E_min"
    return _by_profile(arm_means(arms), Model.HYPERBOLA, definition, lambda shapes: shapes.critical())


def critical_by_overhead(
    arms: Arms, overhead: float = OVERHEAD, reference: float | None = None, model: Model = Model.HYPERBOLA
) -> CriticalBatchSize:
    """Zhang et al. 2024 (2410.21676): the TBS that needs (1 + overhead) times the examples of a reference TBS."""
    summary = arm_means(arms)
    start = _reference(summary, reference)
    formula = " = (1 + p) B_ref + p B_crit" if model is Model.HYPERBOLA else ""
    definition = f"E(B) = {1 + overhead:g} E({start:g}) on the {model}{formula}"
    return _by_profile(summary, model, definition, lambda shapes: shapes.size_at(overhead, start))


def critical_by_isotonic(arms: Arms, overhead: float = OVERHEAD, reference: float | None = None) -> CriticalBatchSize:
    """The same overhead read off the arms: the least rise that never falls (isotonic), log-linear between arms.

    An arm that never reached stands at its stop, which is where it is at best. The interval is a parametric
    bootstrap over seeds: it knows nothing of lack of fit, nor needs to.
    """
    summary = arm_means(arms)
    start = _reference(summary, reference)
    definition = f"E(B) = {1 + overhead:g} E({start:g}), isotonic through the arms"
    sizes = np.concatenate([summary.sizes, summary.missed_sizes])
    order = np.argsort(sizes)
    if len(summary.sizes) < 1 or len(sizes) < 2:
        return CriticalBatchSize(definition, math.nan, NO_DATA, Status.NOT_IDENTIFIED)
    levels = np.concatenate([summary.means, summary.missed_stops])[order]
    precise = float(1 / summary.variances.min())
    weights = np.concatenate([1 / summary.variances, np.full(len(summary.missed_sizes), precise)])[order]
    noise = np.concatenate([np.sqrt(summary.variances), np.zeros(len(summary.missed_sizes))])[order]
    log_sizes = np.log(sizes[order])
    value = math.exp(_isotonic_crossing(log_sizes, levels, weights, overhead, math.log(start)))
    if not summary.degrees:
        interval = Interval(0.0, math.inf, 1.0, "no interval without replicates")
    else:
        rng = np.random.default_rng(0)
        draws = levels + noise * rng.standard_normal((BOOTSTRAP_DRAWS, len(levels)))
        found = [_isotonic_crossing(log_sizes, draw, weights, overhead, math.log(start)) for draw in draws]
        tails = [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)]
        low, high = np.exp(np.percentile(found, tails, method="inverted_cdf"))
        interval = Interval(float(low), float(high), CONFIDENCE, "bootstrap over seeds")
    return _supported(definition, value, interval, float(sizes.min()), float(sizes.max()))


def front(arms: Arms, examples_per_unit: float = 1.0) -> Front:
    """Steps and examples to target of every arm that reached, and the fitted hyperbola over the sweep."""
    summary = arm_means(arms)
    examples = np.exp(summary.means) * examples_per_unit
    points = [FrontPoint(float(b), float(e / b), float(e)) for b, e in zip(summary.sizes, examples, strict=True)]
    beaten = [
        any(o.steps <= p.steps and o.examples <= p.examples and o != p for o in points)
        for p in points
    ]  # fmt: skip
    kept = tuple(p for p, is_beaten in zip(points, beaten, strict=True) if not is_beaten)
    dominated = tuple(p for p, is_beaten in zip(points, beaten, strict=True) if is_beaten)
    if len(points) < Model.HYPERBOLA.parameters:
        return Front(kept, dominated, (), None)
    found = profile(summary, Model.HYPERBOLA)
    scale = math.exp(found.log_scale[found.best]) * examples_per_unit
    sizes = np.geomspace(found.shapes.low, found.shapes.high, 33)

    def on_curve(sizes: np.ndarray) -> tuple[FrontPoint, ...]:
        costs = scale * np.exp(found.shapes.log_curve(sizes)[found.best])
        return tuple(FrontPoint(float(b), float(e / b), float(e)) for b, e in zip(sizes, costs, strict=True))

    critical = critical_by_hyperbola(arms)
    corner = on_curve(np.array([critical.value]))[0] if critical.status is Status.IDENTIFIED else None
    return Front(kept, dominated, on_curve(sizes), corner)


def _by_profile(
    arms: ArmMeans, model: Model, definition: str, size_of: Callable[[Shapes], np.ndarray]
) -> CriticalBatchSize:
    if len(arms.means) < model.parameters:
        return CriticalBatchSize(definition, math.nan, NO_DATA, Status.NOT_IDENTIFIED)
    found = profile(arms, model)
    sizes = size_of(found.shapes)
    interval = Interval(*found.interval(sizes), CONFIDENCE, "profile likelihood")
    return _supported(definition, float(sizes[found.best]), interval, found.shapes.low, found.shapes.high)


def _supported(definition: str, value: float, interval: Interval, smallest: float, largest: float) -> CriticalBatchSize:
    """Keep the ends of the interval that the sweep can show, and the value if both are."""
    low_shown, high_shown = interval.low >= smallest / FURTHEST, interval.high <= largest * FURTHEST
    status = {
        (True, True): Status.IDENTIFIED,
        (True, False): Status.AT_LEAST,
        (False, True): Status.AT_MOST,
        (False, False): Status.NOT_IDENTIFIED,
    }[low_shown, high_shown]
    supported = Interval(
        # A curve that never rises says no more than its largest arm shows.
        (interval.low if math.isfinite(interval.low) else largest) if low_shown else 0.0,
        interval.high if high_shown else math.inf,
        interval.coverage,
        interval.method,
    )
    return CriticalBatchSize(definition, value if status is Status.IDENTIFIED else math.nan, supported, status)


def _reference(arms: ArmMeans, reference: float | None) -> float:
    if reference is not None:
        return float(reference)
    return float(arms.sizes[0]) if len(arms.sizes) else math.nan


def _isotonic_crossing(
    log_sizes: np.ndarray, levels: np.ndarray, weights: np.ndarray, overhead: float, log_start: float
) -> float:
    """log TBS at which the isotonic line first comes to log(1 + overhead) above the start; infinity if it does not."""
    line = isotonic_regression(levels, weights=weights).x
    wanted = float(np.interp(log_start, log_sizes, line)) + math.log1p(overhead)
    above = np.flatnonzero(line >= wanted)
    if not len(above):
        return math.inf
    after = max(int(above[0]), 1)
    run, rise = log_sizes[after] - log_sizes[after - 1], line[after] - line[after - 1]
    return float(log_sizes[after - 1] + run * (wanted - line[after - 1]) / rise) if rise > 0 else float(log_sizes[0])
