"""What a fixed budget buys: the metric after equal epochs, equal updates and equal seconds at every TBS.

The other question than the target's: Smith et al. 2017 list the epochs that fit into one time budget, MLPerf the
epochs that a target needs (P18). Both are read from the same journals here, and never drawn on one axis.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from harness.analyse.arms import ArmFinding
from harness.analyse.evaluations import column, metric_column
from harness.analyse.results import TrialResult
from harness.plan.outcome import Outcome
from harness.statistics.estimates import inverted_cdf

SHARES = (0.5, 1.0, 2.0)  # of what the arm that is cheapest in that unit needs to reach the target
UNITS = ("epochs", "steps", "seconds")


@dataclass(frozen=True)
class BudgetCell:
    """One arm after one budget: the metric at its last evaluation within it."""

    label: str
    total_batch_size: int
    epochs: float  # that fit into the budget
    metric: float  # median over seeds; nan where no seed was evaluated within the budget
    low: float  # range over seeds
    high: float
    n: int
    stopped: int  # seeds that had met the target and stopped: their last metric stands, a lower bound of quality


@dataclass(frozen=True)
class FixedBudget:
    """Every arm at one budget."""

    unit: str  # epochs | steps | seconds: of training, a step's seconds measured alone on the machine
    amount: float
    cells: list[BudgetCell]


def fixed_budgets(rows: Sequence[ArmFinding], results: Sequence[Sequence[TrialResult]]) -> list[FixedBudget]:
    """Three budgets in each unit, around what the cheapest arm needs; none where no arm reached the target.

    `results[i]` are the trials of `rows[i]`. Seconds need the timing pass, and leave out arms without one.
    """
    budgets = []
    for unit in UNITS:
        costs = [cost for row in rows if math.isfinite(cost := row.place.examples / examples_per(row, unit))]
        for share in SHARES if costs else ():
            amount = share * min(costs)
            cells = [
                _cell(row, found, amount * examples_per(row, unit))
                for row, found in zip(rows, results, strict=True)
                if math.isfinite(examples_per(row, unit))
            ]
            budgets.append(FixedBudget(unit, amount, cells))
    return budgets


def examples_per(row: ArmFinding, unit: str) -> float:
    """Examples of one unit; nan where the timing pass is missing."""
    if unit == "epochs":
        return float(row.train_examples)
    if unit == "steps":
        return float(row.total_batch_size)
    return row.total_batch_size / row.step_s if row.step_s else math.nan


def _cell(row: ArmFinding, found: Sequence[TrialResult], budget_examples: float) -> BudgetCell:
    values, stopped = [], 0
    for result in found:
        places = column(result.evaluations, "examples")
        index = bisect_right(places, budget_examples * (1 + 1e-9)) - 1
        if not result.outcome.is_data or index < 0:
            continue
        is_over = index == len(places) - 1 and budget_examples > places[index]
        stopped += is_over and result.outcome is Outcome.REACHED
        value = metric_column(result.evaluations, result.target, result.settings.averaging.decide_on)[index]
        worst = -math.inf if result.target.mode == "max" else math.inf
        lost = value is None or math.isnan(value) or (is_over and result.outcome is Outcome.DIVERGED)
        values.append(worst if lost else value)
    epochs = budget_examples / row.train_examples
    if not values:
        return BudgetCell(row.label, row.total_batch_size, epochs, math.nan, math.nan, math.nan, 0, 0)
    values.sort(reverse=found[0].target.mode == "min")  # of two middle ones the worse
    middle, low, high = inverted_cdf(values, 0.5), min(values), max(values)
    return BudgetCell(row.label, row.total_batch_size, epochs, middle, low, high, len(values), stopped)
