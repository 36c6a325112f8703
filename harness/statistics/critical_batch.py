"""Where a bigger batch stops paying: the critical batch size by three definitions, and the steps-examples front.

A definition is printed with its number: E_min/S_min of a hyperbola and "20 % overhead" differ by a factor of five for
the same data. A number is only given where the sweep shows it; otherwise a bound, or "not identified".

The headline is doubling.py's, which needs no curve. E_min/S_min comes second: it is a property of one LR rule, and its
interval holds what seeds and lack of fit leave open, but not that the curve is of another family.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from harness.statistics import doubling
from harness.statistics.estimates import CONFIDENCE, NO_DATA, Interval
from harness.statistics.fit_likelihood import ArmMeans, Arms, arm_means, profile
from harness.statistics.fit_models import Model, Shapes

OVERHEAD = 0.2
FURTHEST = 2.0  # an interval may leave the sweep by this factor before it is extrapolation


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
    arms: Arms,
    *,
    overhead: float = OVERHEAD,
    reference: float | None = None,
    model: Model = Model.HYPERBOLA,
    rule: str = "",
) -> tuple[CriticalBatchSize, ...]:
    """By E_min/S_min, by overhead over a reference TBS (default: the smallest that reached), and without a model."""
    return (
        critical_by_hyperbola(arms, rule),
        critical_by_overhead(arms, overhead, reference, model),
        critical_by_isotonic(arms, overhead, reference),
    )


def critical_by_hyperbola(arms: Arms, rule: str = "") -> CriticalBatchSize:
    """McCandlish et al. 2018: B_crit = E_min / S_min, where E is 2 E_min and S is 2 S_min; `rule` is the arms' own."""
    under = f" under {rule}" if rule else ""
    definition = f"E_min / S_min{under} of the hyperbola E = E_min (1 + B / B_crit): there E = 2 E_min"
    return _by_profile(arm_means(arms), Model.HYPERBOLA, definition, lambda shapes: shapes.critical())


def critical_by_overhead(
    arms: Arms, overhead: float = OVERHEAD, reference: float | None = None, model: Model = Model.HYPERBOLA
) -> CriticalBatchSize:
    """Zhang et al. 2024 (2410.21676): the TBS that needs (1 + overhead) times the examples of a reference TBS."""
    summary = arm_means(arms)
    start = _reference(summary, reference)
    formula = " = (1 + p) B_ref + p B_crit" if model is Model.HYPERBOLA else ""
    definition = f"E(B) = {1 + overhead:g} E({_named(start)}) on the {model}{formula}"
    return _by_profile(summary, model, definition, lambda shapes: shapes.size_at(overhead, start))


def critical_by_isotonic(arms: Arms, overhead: float = OVERHEAD, reference: float | None = None) -> CriticalBatchSize:
    """The same overhead read off the arms: the least rise that never falls (isotonic), log-linear between arms.

    The interval is that of doubling.py: arms, by tests that assume no curve, or the arms next to the crossing where
    there are no replicates.
    """
    summary = arm_means(arms)
    start = _reference(summary, reference)
    definition = f"E(B) = {1 + overhead:g} E({_named(start)}), isotonic through the arms"
    if not len(summary.sizes) or len(summary.sizes) + len(summary.missed_sizes) < 2:
        return CriticalBatchSize(definition, math.nan, NO_DATA, Status.NOT_IDENTIFIED)
    found = doubling.cost_rise(arms, 1 + overhead, start)
    low = found.low if found.low > start or found.high < math.inf else 0.0  # above the reference it is by definition
    status = {
        (True, True): Status.IDENTIFIED,
        (True, False): Status.AT_LEAST,
        (False, True): Status.AT_MOST,
        (False, False): Status.NOT_IDENTIFIED,
    }[low > 0, found.high < math.inf]
    coverage = found.coverage if found.coverage > 0 else 1.0  # without replicates the method is all there is to say
    value = found.value if status is Status.IDENTIFIED else math.nan
    return CriticalBatchSize(definition, value, Interval(low, found.high, coverage, found.method), status)


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
    """Keep the ends of the interval that the sweep can show, and the value if both are.

    A bound beyond what it can show is as much as it can show: a falling curve gives no "at least infinity".
    """
    low_shown, high_shown = interval.low >= smallest / FURTHEST, interval.high <= largest * FURTHEST
    status = {
        (True, True): Status.IDENTIFIED,
        (True, False): Status.AT_LEAST,
        (False, True): Status.AT_MOST,
        (False, False): Status.NOT_IDENTIFIED,
    }[low_shown, high_shown]
    supported = Interval(
        min(interval.low, largest * FURTHEST) if low_shown else 0.0,
        max(interval.high, smallest / FURTHEST) if high_shown else math.inf,
        interval.coverage,
        interval.method,
    )
    return CriticalBatchSize(definition, value if status is Status.IDENTIFIED else math.nan, supported, status)


def _named(reference: float) -> str:
    return "smallest TBS" if math.isnan(reference) else f"{reference:g}"


def _reference(arms: ArmMeans, reference: float | None) -> float:
    if reference is not None:
        return float(reference)
    return float(arms.sizes[0]) if len(arms.sizes) else math.nan
