"""Metrics of the trials of one arm after a budget: mean, spread and n, and whether two arms differ there."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from harness.analyse.estimates import CONFIDENCE, Interval
from harness.analyse.results import TrialResult
from harness.plan.outcome import Outcome


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
    interval: Interval
    p: float  # two-sided; nan where there is no spread to judge by

    @property
    def is_established(self) -> bool:
        return self.interval.low > 0 or self.interval.high < 0


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
        value = within[-1]["validation"].get(result.settings.averaging.decide_on, {}).get(metric)
        if value is None or not math.isfinite(value):
            diverged += 1
        else:
            values.append(float(value))
    return Scores(values, diverged)


def score_difference(a: Scores, b: Scores) -> ScoreDifference:
    """Welch's t on the scores themselves; no interval where a seed diverged or an arm has fewer than two."""
    if not (a.values and b.values) or a.diverged or b.diverged:
        return ScoreDifference(
            math.nan, Interval(-math.inf, math.inf, 1.0, "none: a seed diverged or is missing"), math.nan
        )
    value = b.mean - a.mean
    if min(len(a.values), len(b.values)) < 2 or (a.sd == 0 and b.sd == 0):
        return ScoreDifference(value, Interval(-math.inf, math.inf, 1.0, "none: no spread between seeds"), math.nan)
    found: Any = stats.ttest_ind(b.values, a.values, equal_var=False)
    bounds = found.confidence_interval(CONFIDENCE)
    interval = Interval(float(bounds.low), float(bounds.high), CONFIDENCE, "Welch t")
    return ScoreDifference(value, interval, float(found.pvalue))
