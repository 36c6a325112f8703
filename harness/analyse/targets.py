"""How the answer depends on the target: epochs and the order of the rules over a range of easier targets (P14).

A trial stops at the target it was run for, so every easier one is answered by its journal and no harder one is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from harness.analyse.arms import ArmFinding
from harness.analyse.curves import metrics_by_examples
from harness.analyse.results import TrialResult
from harness.plan.target import Target
from harness.statistics.estimates import median_estimate

TARGETS = 16


@dataclass(frozen=True)
class TargetCell:
    """One arm at one target: the median over seeds, misses at infinity."""

    label: str
    total_batch_size: int
    epochs: float
    at_least: float  # a lower bound where stopped trials hide the median
    n: int


@dataclass(frozen=True)
class TargetPoint:
    """Every arm at one target."""

    value: float
    cells: list[TargetCell]
    order_changed: list[str]  # pairs of arms at the largest TBS whose order is not that of the targets before
    too_easy: bool  # an arm meets it at its first evaluation: the grid, not the arm, sets its epochs
    too_hard: bool  # half of the seeds of some arm miss it


def answers_by_target(rows: Sequence[ArmFinding], results: Sequence[Sequence[TrialResult]]) -> list[TargetPoint]:
    """From a target that every arm meets early to the one in force, in order of difficulty; [] without data.

    `results[i]` are the trials of `rows[i]`.
    """
    trials = [result for found in results for result in found if result.outcome.is_data and result.evaluations]
    if not trials:
        return []
    target = trials[0].target
    points: list[TargetPoint] = []
    orders: dict[tuple[str, str], int] = {}
    for value in _range(trials, target):
        asked = replace(target, value=value)
        cells = [_cell(row, found, asked) for row, found in zip(rows, results, strict=True)]
        known = [cell for cell in cells if cell.n]
        every = trials[0].settings.evaluate_every_examples / trials[0].settings.train_examples
        points.append(
            TargetPoint(
                value=value,
                cells=cells,
                order_changed=_changes(known, orders),
                too_easy=any(cell.epochs <= every * (1 + 1e-9) for cell in known),
                too_hard=any(math.isinf(cell.epochs) for cell in known),
            )
        )
    return points


def _range(trials: Sequence[TrialResult], target: Target) -> list[float]:
    """Evenly spaced in what is left to gain: the logarithm of 1 - accuracy, or of a loss."""
    first = [next(iter(metrics_by_examples(result).values())) for result in trials]
    finite = [value for value in first if math.isfinite(value)]
    easy = float(np.median(finite)) if finite else target.value
    if target.reached(easy):
        return [target.value]
    if target.mode == "max" and max(easy, target.value) < 1:
        values = 1 - np.geomspace(1 - easy, 1 - target.value, TARGETS)
    elif target.mode == "min" and min(easy, target.value) > 0:
        values = np.geomspace(easy, target.value, TARGETS)
    else:
        values = np.linspace(easy, target.value, TARGETS)
    return [*(float(f"{value:.4g}") for value in values[:-1]), target.value]


def _cell(row: ArmFinding, found: Sequence[TrialResult], target: Target) -> TargetCell:
    estimate = median_estimate([result.observation(target) for result in found])
    return TargetCell(
        row.label,
        row.total_batch_size,
        estimate.value / row.train_examples,
        estimate.at_least / row.train_examples,
        estimate.n,
    )


def _changes(cells: Sequence[TargetCell], orders: dict[tuple[str, str], int]) -> list[str]:
    """Pairs at the largest TBS that changed places since they last differed; `orders` remembers."""
    if not cells:
        return []
    largest = max(cell.total_batch_size for cell in cells)
    changed = []
    for a, b in combinations([cell for cell in cells if cell.total_batch_size == largest], 2):
        sign = (a.epochs > b.epochs) - (a.epochs < b.epochs)
        if sign and orders.get((a.label, b.label), sign) != sign:
            changed.append(f"{a.label} and {b.label}")
        if sign:
            orders[a.label, b.label] = sign
    return changed
