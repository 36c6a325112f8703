"""The metric itself: learning curves by examples, updates and seconds; fixed budgets; the answer against the target."""

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from matplotlib.ticker import FixedLocator

from harness.analyse.curves import LearningCurve
from harness.analyse.findings import Findings
from harness.analyse.fixed_budget import UNITS as BUDGET_UNITS
from harness.analyse.fixed_budget import BudgetCell, FixedBudget
from harness.analyse.reach import ReachLine
from harness.report.canvas import Canvas, Figure, draw
from harness.report.numbers import beyond
from harness.report.palette import LIGHT
from harness.statistics import words
from harness.statistics.words import number

MOST_SERIES = 6
MOST_PANELS = 6  # rows of learning curves
MOST_STEPS = 40  # of a reach curve
MARKS = 10  # markers, each with its hover text, along a learning curve
Item = TypeVar("Item")
NOUNS = {  # of each unit of the abscissa: one and many
    "examples": ("example seen", "examples seen"),
    "steps": ("update", "updates"),
    "seconds": ("second of training", "seconds of training"),
}
WORDS = {unit: many for unit, (_, many) in NOUNS.items()}


def learning_figures(findings: Findings) -> list[list[Figure]]:
    """A row of panels (by examples, updates, seconds) for each rule over its TBS, or for one TBS over its arms."""
    sizes = {curve.total_batch_size for curve in findings.curves}
    groups: dict[str, list[LearningCurve]] = {}
    for curve in findings.curves:
        key = curve.label if len(sizes) > 1 else f"TBS {curve.total_batch_size}"
        groups.setdefault(key, []).append(curve)
    rows = []
    for number_of, (group, curves) in enumerate(list(groups.items())[:MOST_PANELS]):
        chosen = _spread_out(curves, MOST_SERIES)
        units = [unit for unit in WORDS if unit != "seconds" or all(curve.step_s for curve in chosen)]
        name = {id(c): f"TBS {c.total_batch_size}" if len(sizes) > 1 else c.label for c in chosen}
        rows.append(
            [_learning(findings, f"{number_of}", group, chosen, [name[id(c)] for c in chosen], u) for u in units]
        )
    return rows


def _spread_out(curves: list[Item], most: int) -> list[Item]:
    """At most `most` of them, evenly spaced, the first and the last among them."""
    if len(curves) <= most:
        return curves
    return [curves[round(i * (len(curves) - 1) / (most - 1))] for i in range(most)]


def _per(curve: LearningCurve, unit: str) -> float:
    """Examples of one unit of the abscissa."""
    if unit == "examples":
        return 1.0
    return curve.total_batch_size / (1.0 if unit == "steps" else curve.step_s or math.nan)


def _learning(
    findings: Findings, key: str, group: str, curves: Sequence[LearningCurve], names: Sequence[str], unit: str
) -> Figure:
    rows = [
        [name, number(p.examples / _per(curve, unit)), number(p.median), number(p.low), number(p.high), str(p.n)]
        for name, curve in zip(names, curves, strict=True)
        for p in curve.points[:: max(1, len(curve.points) // MARKS)]
    ]

    def paint(canvas: Canvas) -> None:
        for series, (name, curve) in enumerate(zip(names, curves, strict=True)):
            xs = [p.examples / _per(curve, unit) for p in curve.points]
            tips = [
                f"{name}: {number(p.median)} after {words.count(number(x), *NOUNS[unit])}, n = {p.n}"
                for x, p in zip(xs, curve.points, strict=True)
            ]
            canvas.band(series, xs, [p.low for p in curve.points], [p.high for p in curve.points])
            every = max(1, len(xs) // MARKS)
            canvas.points(series, name, xs, [p.median for p in curve.points], tips, every=every)
        if findings.aims_at_target:
            canvas.axes.axhline(findings.target_value, color=LIGHT["ink"], linewidth=0.8)
        if any(curve.points for curve in curves):
            canvas.log2(True, False)
        canvas.axes.set_xlabel(WORDS[unit])
        canvas.axes.set_ylabel(f"validation {findings.metric}")

    ends = [
        f"{name} ends at {number(end.median)} after {number(end.examples / _per(curve, unit))}"
        for name, curve in zip(names, curves, strict=True)
        for end in curve.points[-1:]
    ]
    alt = f"Validation {findings.metric} under {group} by {WORDS[unit]}, median over seeds. {'; '.join(ends)}."
    columns = ("arm", WORDS[unit], "median", "lowest", "highest", "seeds")
    return draw(f"learning_{key}_{unit}", f"{group}, by {WORDS[unit]}", alt, columns, rows, paint)


def budget_figures(findings: Findings) -> list[list[Figure]]:
    """A row of panels for each unit: the metric of every arm after a small, a middle and a large budget."""
    rows = []
    for unit in BUDGET_UNITS:
        budgets = [budget for budget in findings.fixed_budgets if budget.unit == unit]
        figures = [_budget(findings, budget, i) for i, budget in enumerate(budgets)]
        if any(figure is not None for figure in figures):
            rows.append([figure for figure in figures if figure is not None])
    return rows


def _budget(findings: Findings, budget: FixedBudget, index: int) -> Figure | None:
    shown = [cell for cell in budget.cells if math.isfinite(cell.metric)]
    if not shown:
        return None
    lines: dict[str, list[BudgetCell]] = {}
    for cell in shown:
        lines.setdefault(cell.label, []).append(cell)
    rows = [
        [
            str(cell.total_batch_size),
            cell.label,
            number(cell.epochs),
            number(cell.metric),
            f"{number(cell.low)}–{number(cell.high)}",
            str(cell.n),
            str(cell.stopped),
        ]
        for cell in budget.cells
    ]

    def paint(canvas: Canvas) -> None:
        for series, (label, cells) in enumerate(lines.items()):
            shift = 2 ** (0.12 * (series - (len(lines) - 1) / 2))
            xs, ys = [cell.total_batch_size * shift for cell in cells], [cell.metric for cell in cells]
            tips = [
                f"{label} TBS {c.total_batch_size}: {number(c.metric)} after "
                f"{words.count(number(c.epochs), 'epoch')}, n = {c.n}"
                + (f", {c.stopped} stopped at the target" if c.stopped else "")
                for c in cells
            ]
            for x, cell in zip(xs, cells, strict=True):
                if math.isfinite(cell.low) and math.isfinite(cell.high):
                    canvas.interval(series, x, cell.low, cell.high)
            canvas.points(series, label, xs, ys, tips, hollow=[2 * c.stopped >= c.n for c in cells])
        canvas.axes.axhline(findings.target_value, color=LIGHT["ink"], linewidth=0.8)
        canvas.log2(True, False, sorted({float(cell.total_batch_size) for cell in shown}))
        canvas.axes.set_xlabel(words.TOTAL_BATCH_SIZE)
        canvas.axes.set_ylabel(f"validation {findings.metric}")

    amount = words.count(number(budget.amount), {"steps": "update"}.get(budget.unit, budget.unit.removesuffix("s")))
    title = f"After {amount} each"
    ends = "; ".join(
        f"{label}: {number(cells[0].metric)} at TBS {cells[0].total_batch_size}, "
        f"{number(cells[-1].metric)} at TBS {cells[-1].total_batch_size}"
        for label, cells in lines.items()
    )
    alt = f"Validation {findings.metric} after {amount} at every TBS. {ends}."
    columns = (
        "TBS",
        "rule",
        "epochs that fit",
        findings.metric,
        "range over seeds",
        "seeds",
        "of them stopped at target",
    )
    return draw(f"budget_{budget.unit}_{index}", title, alt, columns, rows, paint)


def target_figure(findings: Findings) -> Figure | None:
    """Epochs at the largest TBS over a range of targets, the targets at which two arms change places marked."""
    points = findings.by_target
    known = [cell for point in points for cell in point.cells if cell.n]
    if len(points) < 2 or not known:
        return None
    largest = max(cell.total_batch_size for cell in known)
    labels = list(dict.fromkeys(cell.label for cell in known if cell.total_batch_size == largest))[:MOST_SERIES]
    by_label = {
        label: [
            (point.value, next(c for c in point.cells if (c.label, c.total_batch_size) == (label, largest)))
            for point in points
        ]
        for label in labels
    }
    rows = [
        [
            number(point.value, 4),
            *[_epochs(cells[i][1].epochs, cells[i][1].at_least) for cells in by_label.values()],
            ", ".join(point.order_changed),
            "too easy" if point.too_easy else "too hard" if point.too_hard else "",
        ]
        for i, point in enumerate(points)
    ]
    changes = [point for point in points if point.order_changed]

    def paint(canvas: Canvas) -> None:
        for series, (label, cells) in enumerate(by_label.items()):
            reached = [(value, cell.epochs) for value, cell in cells if math.isfinite(cell.epochs)]
            tips = [
                f"{label} TBS {largest}: {words.count(number(epochs), 'epoch')} to {number(value, 4)}"
                for value, epochs in reached
            ]
            if reached:
                canvas.points(series, label, [v for v, _ in reached], [e for _, e in reached], tips)
        for i, point in enumerate(changes):
            canvas.axes.axvline(
                point.value, color=LIGHT["ink"], linewidth=0.9, linestyle=":",
                label="order changes" if i == 0 else None,
            )  # fmt: skip
        canvas.log2(False, True)
        values = [point.value for point in points]
        if values[0] < values[-1] < 1:  # room for the last percents, which cost the most
            canvas.axes.set_xscale("function", functions=(_difficulty, lambda y: 1 - np.exp(-y)))
            canvas.axes.set_xlim(values[0], values[-1] + (1 - values[-1]) / 10)
        elif values[0] > values[-1]:
            canvas.axes.invert_xaxis()
        canvas.axes.xaxis.set_major_locator(FixedLocator(values[::-3]))
        canvas.axes.set_xlabel(f"target: validation {findings.metric} (harder to the right)")
        canvas.axes.set_ylabel(f"epochs to target at TBS {largest}")

    said = "; ".join(f"{', '.join(point.order_changed)} at {number(point.value, 4)}" for point in changes)
    moved = f"The order changes: {said}." if said else "The order of the arms does not change."
    ends = f"{number(points[0].value, 4)} to {number(points[-1].value, 4)}"
    alt = f"Epochs at TBS {largest} for targets from {ends}. {moved}"
    columns = ("target", *[f"{label}, epochs" for label in labels], "order changes", "flag")
    return draw("by_target", f"Epochs at TBS {largest} against the target", alt, columns, rows, paint)


def reach_figure(findings: Findings) -> Figure | None:
    """Kaplan-Meier: the share of seeds that has reached by each place, at the largest TBS."""
    chosen = _spread_out(findings.reach, MOST_SERIES)
    if not any(line.curve.places for line in chosen):
        return None
    tbs, steps = chosen[0].total_batch_size, {line.label: _steps(line) for line in chosen}
    rows = [
        [line.label, number(place), number(share), f"{number(low)}–{number(high)}", str(line.curve.n)]
        for line in chosen
        for place, share, low, high in steps[line.label]
    ]

    def paint(canvas: Canvas) -> None:
        for series, line in enumerate(chosen):
            at = steps[line.label]
            xs, ys = [0.0, *(p for p, _, _, _ in at), line.end], [0.0, *(s for _, s, _, _ in at)]
            canvas.stairs(series, line.label, xs, [*ys, ys[-1]])
            tips = [
                f"{line.label}: {number(share)} of {words.count(line.curve.n, 'seed')} by "
                f"{words.count(number(place), 'epoch')} ({number(low)}–{number(high)})"
                for place, share, low, high in at
            ]
            canvas.points(series, line.label, xs[1:-1], ys[1:], tips, line=False)
        canvas.axes.set_ylim(-0.02, 1.02)
        canvas.axes.set_xlabel("epochs")
        canvas.axes.set_ylabel("share of seeds that have reached")

    ends = "; ".join(
        f"{line.label}: half of {line.curve.n} by "
        + (
            words.count(number(line.curve.median), "epoch")
            if math.isfinite(line.curve.median)
            else "no place on record"
        )
        + f", {number(100 * (line.curve.reached_share[-1] if line.curve.places else 0))} % in the end"
        for line in chosen
    )
    alt = f"Share of seeds that have reached the target by epochs at TBS {tbs}. {ends}."
    columns = ("rule", "epochs", "share reached", "95 % band, pointwise", "seeds")
    return draw("reach", f"Seeds that have reached, TBS {tbs}", alt, columns, rows, paint)


def _steps(line: ReachLine) -> list[tuple[float, float, float, float]]:
    """(epochs, share, low, high) of at most MOST_STEPS places evenly along the curve, its last among them."""
    curve = line.curve
    at = list(zip(curve.places, curve.reached_share, curve.low, curve.high, strict=True))
    return _spread_out(at, MOST_STEPS)


def _difficulty(value: np.ndarray) -> np.ndarray:
    return -np.log(np.maximum(1 - value, 1e-9))


def _epochs(value: float, at_least: float) -> str:
    if math.isfinite(value):
        return number(value)
    return beyond(at_least)
