"""Learning curves: the target's metric against examples, a median over seeds and the range of those still running."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.analyse.evaluations import column, metric_column
from harness.analyse.results import TrialResult
from harness.plan.outcome import Outcome
from harness.statistics.estimates import inverted_cdf

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
    settings, mode = trials[0].settings, trials[0].target.mode
    series = [metrics_by_examples(result) for result in trials]
    places = sorted({examples for values in series for examples in values})
    seen = np.full((len(trials), len(places)), math.nan)  # what was evaluated, nan where it was not a number
    known = np.full(seen.shape, math.nan)  # with what stands for a trial that had ended
    for i, (result, values) in enumerate(zip(trials, series, strict=True)):
        here = np.searchsorted(places, list(values))
        seen[i, here] = list(values.values())
        better = math.inf if mode == "max" else -math.inf
        known[i, here] = np.where(np.isfinite(seen[i, here]), seen[i, here], -better)
        ends = {Outcome.DIVERGED: -better, Outcome.REACHED: better}
        known[i, np.searchsorted(places, result.examples, "right") :] = ends.get(result.outcome, math.nan)
    points = []
    for examples, values, all_values in zip(places, seen.T, known.T, strict=True):
        finite, middle = values[np.isfinite(values)], _median(all_values, mode)
        if len(finite) and math.isfinite(middle):
            points.append(CurvePoint(examples, middle, float(finite.min()), float(finite.max()), len(finite)))
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


def _median(values: np.ndarray, mode: str) -> float:
    """The inverted CDF from the worse side, over the seeds that are known."""
    ordered = np.sort(values[~np.isnan(values)])
    return inverted_cdf((ordered if mode == "max" else ordered[::-1]).tolist(), 0.5)
