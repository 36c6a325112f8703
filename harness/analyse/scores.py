"""Metrics of the trials of one arm after a budget: mean, spread and n, and whether two arms differ there."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from harness.analyse.results import TrialResult
from harness.plan.outcome import Outcome
from harness.statistics.comparisons import holm
from harness.statistics.estimates import CONFIDENCE, LEVEL, Interval


@dataclass(frozen=True)
class Scores:
    """One number a seed, in the order of seeds."""

    values: list[float]
    diverged: int  # seeds without a number; they are no part of `values`, and no mean is claimed beside them

    @property
    def n(self) -> int:
        return len(self.values) + self.diverged

    @property
    def mean(self) -> float:
        """nan where a seed diverged: a mean over those that did not would flatter."""
        return float(np.mean(self.values)) if self.values and not self.diverged else math.nan

    @property
    def sd(self) -> float:
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 and not self.diverged else math.nan

    @property
    def low(self) -> float:
        return min(self.values, default=math.nan)

    @property
    def high(self) -> float:
        return max(self.values, default=math.nan)


@dataclass(frozen=True)
class ScoreDifference:
    """Mean of b minus mean of a, with Welch's interval."""

    value: float
    interval: Interval  # of this pair alone
    p: float  # two-sided; nan where there is no spread to judge by
    p_adjusted: float  # `p` after Holm's correction for the comparisons made beside this one

    @property
    def is_established(self) -> bool:
        return self.p_adjusted < LEVEL


def scores(results: Iterable[TrialResult], metric: str, budget_examples: float = math.inf) -> Scores:
    """`metric` of the deciding weights at the last evaluation within the budget, of every trial that is data.

    A trial that ended more than one evaluation interval before the budget has no score there, unless it diverged.
    """
    values, diverged = [], 0
    for result in results:
        if not result.outcome.is_data:
            continue
        within = [row for row in result.evaluations if row["examples"] <= budget_examples * (1 + 1e-9)]
        is_short = result.examples + result.settings.evaluate_every_examples <= budget_examples < math.inf
        if not within or (is_short and result.outcome is not Outcome.DIVERGED):
            continue
        found = within[-1]["validation"].get(result.settings.averaging.decide_on, {})
        if found and metric not in found:
            continue  # not measured
        value = found.get(metric)
        if value is None or not math.isfinite(value):
            diverged += 1
        else:
            values.append(float(value))
    return Scores(values, diverged)


def score_columns(metric: str) -> list[str]:
    """Of a table of scores; the loss stands beside any other metric."""
    beside = [] if metric == "loss" else ["loss_mean"]
    return [f"{metric}_mean", f"{metric}_sd", f"{metric}_low", f"{metric}_high", *beside, "n", "diverged"]


def score_cells(metric: str, found: Scores, loss: Scores) -> list[float | None]:
    """What stands in `score_columns`."""
    values = [found.mean, found.sd, found.low, found.high, *([] if metric == "loss" else [loss.mean])]
    return [*(None if math.isnan(value) else value for value in values), found.n, found.diverged]


def score_differences(pairs: Sequence[tuple[Scores, Scores]]) -> list[ScoreDifference]:
    """Every pair (a, b) of one report by Welch's t on the scores themselves, judged after Holm's correction (P16).

    No interval and no p where a seed diverged or an arm has fewer than two; such a pair is not counted.
    """
    found = [_difference(a, b) for a, b in pairs]
    adjusted = holm([one.p for one in found])
    return [replace(one, p_adjusted=p) for one, p in zip(found, adjusted, strict=True)]


def _difference(a: Scores, b: Scores) -> ScoreDifference:
    if not (a.values and b.values) or a.diverged or b.diverged:
        return _unknown(math.nan, "a seed diverged or is missing")
    value = round(b.mean - a.mean, 12) + 0.0  # equal scores in another order sum to a rounding error, or to -0
    if min(len(a.values), len(b.values)) < 2 or (a.sd == 0 and b.sd == 0):
        return _unknown(value, "no spread between seeds")
    found: Any = stats.ttest_ind(b.values, a.values, equal_var=False)
    bounds = found.confidence_interval(CONFIDENCE)
    interval = Interval(float(bounds.low), float(bounds.high), CONFIDENCE, "Welch t")
    return ScoreDifference(value, interval, float(found.pvalue), float(found.pvalue))


def _unknown(value: float, why: str) -> ScoreDifference:
    return ScoreDifference(value, Interval(-math.inf, math.inf, 1.0, f"none: {why}"), math.nan, math.nan)
