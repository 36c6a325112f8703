"""Learning curves: the target's metric against examples, a median over seeds and the range of those still running."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.analyse.estimates import inverted_cdf
from harness.analyse.evaluations import column, metric_column
from harness.analyse.results import TrialResult
from harness.plan.outcome import Outcome

MOST_POINTS = 300  # of a curve; a page stays small and no screen shows more


@dataclass(frozen=True)
class CurvePoint:
    """One evaluation of an arm."""

    examples: int
    median: float  # over every seed: one that stopped at its target counts as better, a diverged one as worse
    low: float  # range over the seeds that were evaluated here
    high: float
    n: int  # seeds that were evaluated here


@dataclass(frozen=True)
class LearningCurve:
    """An arm's evaluations on the deciding weights; ends where the median is no longer known."""

    label: str
    total_batch_size: int
    train_examples: int
    step_s: float | None  # seconds per update, alone on the machine
    points: list[CurvePoint]


def learning_curve(label: str, found: Sequence[TrialResult], step_s: float | None) -> LearningCurve | None:
    """None where no trial of the arm was evaluated."""
    trials = [result for result in found if result.outcome.is_data and result.evaluations]
    if not trials:
        return None
    settings = trials[0].settings
    series = [metrics_by_examples(result) for result in trials]
    points = []
    for examples in sorted({examples for values in series for examples in values}):
        here = [values[examples] for values in series if math.isfinite(values.get(examples, math.nan))]
        middle = _median([_value(r, v, examples) for r, v in zip(trials, series, strict=True)], trials[0].target.mode)
        if here and math.isfinite(middle):
            points.append(CurvePoint(examples, middle, min(here), max(here), len(here)))
    return LearningCurve(label, settings.total_batch_size, settings.train_examples, step_s, decimated(points))


def metrics_by_examples(result: TrialResult) -> dict[int, float]:
    """The target's metric of every evaluation, nan where it was not a number."""
    weights = result.settings.averaging.decide_on
    places, values = column(result.evaluations, "examples"), metric_column(result.evaluations, result.target, weights)
    return {int(e): math.nan if value is None else value for e, value in zip(places, values, strict=True)}


def decimated(points: list[CurvePoint]) -> list[CurvePoint]:
    """At most MOST_POINTS of them, each bucket by its first and last, with the whole bucket's range."""
    if len(points) <= MOST_POINTS:
        return points
    buckets = MOST_POINTS // 2
    kept: list[CurvePoint] = []
    for i in range(buckets):
        bucket = points[i * len(points) // buckets : (i + 1) * len(points) // buckets]
        low, high = min(p.low for p in bucket), max(p.high for p in bucket)
        kept += [CurvePoint(p.examples, p.median, low, high, p.n) for p in dict.fromkeys((bucket[0], bucket[-1]))]
    return kept


def _value(result: TrialResult, values: dict[int, float], examples: int) -> float:
    """The metric there; infinitely good beyond a stop at the target, infinitely bad beyond divergence."""
    better = math.inf if result.target.mode == "max" else -math.inf
    if examples in values:
        return values[examples] if math.isfinite(values[examples]) else -better
    if examples < result.examples:
        return math.nan  # evaluated on another grid
    if result.outcome is Outcome.DIVERGED:
        return -better
    return better if result.outcome is Outcome.REACHED else math.nan


def _median(values: Sequence[float], mode: str) -> float:
    """The inverted CDF from the worse side, over the seeds that are known."""
    known = sorted((value for value in values if not math.isnan(value)), reverse=mode == "max")
    return inverted_cdf(known[::-1], 0.5)
