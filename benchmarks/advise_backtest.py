"""How far to trust `harness advise`: public tables are learned up to n GPUs, and what lies beyond is predicted.

    python benchmarks/advise_backtest.py harness/published/tables/bert_large_a100_strong_scaling.csv
    python benchmarks/advise_backtest.py RESULTS.csv --rcp RCP.csv --learn-up-to 64

Every GPU count >= 8 serves once as the cut, or --learn-up-to alone. Rows beyond the cut are predicted: the seconds of
an update (rows with a rate), the cost to target between the points of --rcp (or of the learned rows), and the seconds
end to end. A submitter is a system of its own, whose difference is a random effect. Below half of the smallest
micro-batch learned there is no point, only a bracket. Rows whose replica spans several GPUs (model parallelism) are
predicted only at the same share of examples per GPU and micro-step, and with no fewer micro-steps than were learned:
how long their pipelines take to fill is not known.

The last line is one JSON object. What it said of the shipped tables: docs/advise.md. Seeded: the same command prints
the same lines.
"""

import argparse
import json
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.advise_tables import RCP_NAMES, TableRow, cost_between, read_costs, read_table
from harness.plan.errors import UserError
from harness.statistics.run_time import Overheads, evaluation_exponents, evaluation_seconds
from harness.statistics.step_model import FURTHEST, SAME, Kind, StepModel, StepPrediction, StepRow, fit_step_model

LEAST_CUT = 8
COST_SD = 0.05  # of a cost between two points, on the log
EVALUATION_SD = 0.3  # of what a run spends besides its updates, on the log
ROUNDING_S = 0.5
FAR = 8.0  # times the largest n learned


@dataclass(frozen=True)
class Cell:
    """One prediction of one published number."""

    quantity: str  # step, seconds, cost
    support: str  # measured, extrapolated, bracketed: by micro-batch; for a cost: between points, at a point
    series: str
    cut: int
    devices: int
    error: float  # predicted / published - 1; nan where there is only a bracket
    held: tuple[bool, bool]  # by the 80 and the 95 % interval
    half_widths: tuple[float, float]
    perfect: float  # error of the rate per GPU of the smallest n learned
    nearest: float  # and of the row that is nearest in n and micro-batch

    @property
    def distance(self) -> float:
        return self.devices / self.cut


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="+", metavar="TABLE.csv")
    parser.add_argument("--rcp", type=Path, help="costs to target by TBS, for `cost` and `seconds`")
    parser.add_argument("--learn-up-to", type=int, metavar="N", help="one cut instead of every GPU count >= 8")
    parser.add_argument("--cells", action="store_true", help="print every prediction")
    given = parser.parse_args(arguments)
    try:
        rows = [row for path in given.tables for row in read_table(path)]
        costs = read_costs(given.rcp) if given.rcp else {}
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    cells, refused = predict_all(rows, costs, given.learn_up_to)
    if given.cells:
        for cell in cells:
            held = "held" if cell.held[1] else "MISSED"
            print(f"{cell.quantity:8} {cell.support:12} {cell.series:28} {cell.cut:6} -> {cell.devices:6} "
                  f"{100 * cell.error:7.1f} %  95 % +-{100 * cell.half_widths[1]:.0f} % {held}")  # fmt: skip
    found = summary(cells, refused, {row.series for row in rows}) | {"price_of_speed": prices_of_speed(rows)}
    print_tables(found)
    print(json.dumps(found))
    return 0


def predict_all(
    rows: Sequence[TableRow], costs: dict[str, dict[float, float]], only_cut: int | None = None
) -> tuple[list[Cell], Counter[str]]:
    """Every cell of every series at every cut, and how many numbers were refused for which reason."""
    by_series: dict[str, list[TableRow]] = defaultdict(list)
    for row in rows:
        by_series[row.series].append(row)
    cells: list[Cell] = []
    refused: Counter[str] = Counter()
    for series in by_series.values():
        points = costs.get(RCP_NAMES.get(series[0].benchmark, series[0].benchmark), {})
        cells += _cost_cells(series, points, refused)
        cuts = sorted({row.devices for row in series if row.devices >= LEAST_CUT})
        for cut in cuts if only_cut is None else [only_cut]:
            learned = [row for row in series if row.devices <= cut]
            asked = [row for row in series if row.devices > cut]
            if learned and asked:
                cells += _Cut(learned, cut, points, refused).cells(asked)
    return cells, refused


class _Cut:
    """One series, learned up to a number of GPUs."""

    def __init__(
        self, learned: Sequence[TableRow], cut: int, points: dict[float, float], refused: Counter[str]
    ) -> None:
        self.cut, self.refused = cut, refused
        with_rate = [row for row in learned if row.micro_batch and row.step_s]
        # A series without rates is learned from whole runs: its updates contain the evaluations.
        self.has_rates = bool(with_rate)
        whole = [row for row in learned if row.micro_batch and row.step_with_evaluation_s]
        self.learned = with_rate or whole
        self.points = points or _median_costs(learned)
        self.model = None
        if self.learned:
            self.model = fit_step_model([_step_row(row, self._step_of(row)) for row in self.learned])
        rng = np.random.default_rng(0)
        draws = 0 if self.model is None else len(self.model.noise)
        self.exponents = evaluation_exponents(draws, rng)
        self.cost_noise, self.evaluation_noise, self.rounding = rng.standard_normal((3, draws))

    def _step_of(self, row: TableRow) -> float:
        step = row.step_s if self.has_rates else row.step_with_evaluation_s
        assert step is not None
        return step

    def cells(self, asked: Iterable[TableRow]) -> Iterable[Cell]:
        for row in asked:
            wanted = [name for name, value in (("step", row.step_s), ("seconds", row.seconds)) if value]
            reason = self._reason(row)
            if reason:
                self.refused[reason] += len(wanted)
                continue
            assert self.model is not None
            assert row.micro_batch is not None
            found = self.model.predict(row.devices, row.micro_batch, row.accumulation, row.system)
            if row.step_s and self.has_rates:
                yield self._step_cell(row, found, self.model)
            elif row.step_s:
                self.refused["no rate learned"] += 1
            if row.seconds:
                yield from self._seconds_cell(row, found, self.model)

    def _reason(self, row: TableRow) -> str:
        """Why nothing is said of a row; empty if something is."""
        if not self.learned or self.model is None:
            return "no rate or run time with a known micro-batch learned"
        if row.micro_batch is None:
            return "micro-batch not given"
        if not row.is_split:
            return ""
        alike = [known for known in self.learned if abs(known.micro_batch / row.micro_batch - 1) <= SAME]  # pyright: ignore
        if not alike:
            return "replica over several GPUs: another share of examples per GPU"
        if row.accumulation < min(known.accumulation for known in alike):
            return "replica over several GPUs: fewer micro-steps than learned"
        return ""

    def _step_cell(self, row: TableRow, found: StepPrediction, model: StepModel) -> Cell:
        assert row.step_s is not None
        perfect, nearest = (self._rescaled(row, known) / row.step_s - 1 for known in self._baselines(row))
        return self._cell("step", row, row.step_s, found.seconds, found.draws, found, model, perfect, nearest)

    def _seconds_cell(self, row: TableRow, found: StepPrediction, model: StepModel) -> Iterable[Cell]:
        cost = cost_between(self.points, row.total_batch_size)
        assert row.seconds is not None
        if cost is None or row.cost is None or row.examples is None:
            self.refused["seconds: TBS not between known costs"] += 1
            return
        updates = cost * row.examples / row.cost / row.total_batch_size
        rest = self._besides(row, cost)
        known = updates * found.draws * np.exp(COST_SD * self.cost_noise) + rest
        draws = known + ROUNDING_S / math.sqrt(3) * self.rounding
        point = None if found.seconds is None else float(np.median(draws))
        errors = []
        for base in self._baselines(row):
            scaled = updates * self._rescaled(row, base)
            errors.append(scaled / row.seconds - 1)
        yield self._cell("seconds", row, row.seconds, point, draws, found, model, *errors)

    def _besides(self, row: TableRow, cost: float) -> np.ndarray[Any, Any]:
        """Seconds besides the updates: evaluations, in proportion to the cost, at the largest n that shows them."""
        shown = [
            (known.devices, (known.seconds - known.updates * known.step_s) / known.cost)
            for known in self.learned
            if known.step_s and known.seconds and known.updates and known.cost
        ]
        if not self.has_rates or not shown:
            return np.zeros(len(self.exponents))
        devices = max(n for n, _ in shown)
        each = max(0.0, float(np.median([per for n, per in shown if n == devices])))
        scaled = evaluation_seconds(Overheads(each, devices), row.devices, self.exponents)
        return cost * scaled * np.exp(EVALUATION_SD * self.evaluation_noise)

    def _baselines(self, row: TableRow) -> tuple[TableRow, TableRow]:
        """The row that perfect scaling starts from, and the nearest one; of the same system where it has any."""
        own = [known for known in self.learned if known.system == row.system] or self.learned
        assert row.micro_batch is not None

        def distance(known: TableRow) -> float:
            assert row.micro_batch
            assert known.micro_batch
            return math.hypot(math.log(known.devices / row.devices), math.log(known.micro_batch / row.micro_batch))

        return min(own, key=lambda known: (known.devices, distance(known))), min(own, key=distance)

    def _rescaled(self, row: TableRow, known: TableRow) -> float:
        """Seconds of an update at the rate per GPU of `known`."""
        return self._step_of(known) * (row.total_batch_size / row.devices) / (known.total_batch_size / known.devices)

    def _cell(
        self, quantity: str, row: TableRow, truth: float, point: float | None, draws: np.ndarray[Any, Any],
        found: StepPrediction, model: StepModel, perfect: float, nearest: float,
    ) -> Cell:  # fmt: skip
        ends = [np.quantile(draws, [(1 - share) / 2, (1 + share) / 2]) for share in (0.8, 0.95)]
        if found.kind in (Kind.EXTRAPOLATED, Kind.BRACKETED) and quantity == "step":
            ends[1] = np.array([found.low, found.high])
        slack = ROUNDING_S if quantity == "seconds" else 0.0
        held = [bool(low - slack <= truth <= high + slack) for low, high in ends]
        return Cell(
            quantity, _support(row, model), row.series, self.cut, row.devices,
            math.nan if point is None else point / truth - 1,
            (held[0], held[1]), (_half_width(ends[0]), _half_width(ends[1])), perfect, nearest,
        )  # fmt: skip


def _support(row: TableRow, model: StepModel) -> str:
    assert row.micro_batch is not None
    low, high = model.smallest_micro_batch * (1 - SAME), model.largest_micro_batch * (1 + SAME)
    if low <= row.micro_batch <= high:
        return "measured"
    return "extrapolated" if low / FURTHEST <= row.micro_batch <= high * FURTHEST else "bracketed"


def _half_width(ends: np.ndarray[Any, Any]) -> float:
    return math.sqrt(ends[1] / ends[0]) - 1 if ends[0] > 0 else math.inf


def _step_row(row: TableRow, seconds: float) -> StepRow:
    assert row.micro_batch is not None
    return StepRow(row.devices, row.micro_batch, row.accumulation, seconds, system=row.system)


def _median_costs(rows: Iterable[TableRow]) -> dict[float, float]:
    by_size: dict[float, list[float]] = defaultdict(list)
    for row in rows:
        if row.cost is not None:
            by_size[row.total_batch_size].append(row.cost)
    return {size: float(np.median(found)) for size, found in by_size.items()}


def _cost_cells(rows: Sequence[TableRow], points: dict[float, float], refused: Counter[str]) -> Iterable[Cell]:
    """Published costs against the points of --rcp, whatever the cut."""
    for row in rows:
        if row.cost is None or not points:
            continue
        cost = cost_between(points, row.total_batch_size)
        if cost is None:
            refused["cost: TBS not between the points of --rcp"] += 1
            continue
        nearest = min(points, key=lambda size: abs(math.log(size / row.total_batch_size)))
        smallest = points[min(points)]
        widths = math.exp(1.28 * COST_SD) - 1, math.exp(1.96 * COST_SD) - 1
        error = cost / row.cost - 1
        held = abs(math.log1p(error)) <= 1.28 * COST_SD, abs(math.log1p(error)) <= 1.96 * COST_SD
        support = "at a point" if row.total_batch_size in points else "between points"
        yield Cell("cost", support, row.series, row.devices, row.devices, error, held, widths,
                   smallest / row.cost - 1, points[nearest] / row.cost - 1)  # fmt: skip


# -- summary ------------------------------------------------------------------------------------------------------


def summary(cells: Sequence[Cell], refused: Counter[str], series: set[str]) -> dict[str, Any]:
    """The JSON object of the last line."""
    points = [cell for cell in cells if not math.isnan(cell.error)]
    groups: dict[str, Callable[[Cell], bool]] = {
        "step, measured, up to 8x": lambda c: _is(c, "step", "measured") and c.distance <= FAR,
        "step, measured, beyond 8x": lambda c: _is(c, "step", "measured") and c.distance > FAR,
        "step, measured": lambda c: _is(c, "step", "measured"),
        "step, extrapolated": lambda c: _is(c, "step", "extrapolated"),
        "step, bracketed": lambda c: _is(c, "step", "bracketed"),
        "cost, between points": lambda c: _is(c, "cost", "between points"),
        "cost, at a point": lambda c: _is(c, "cost", "at a point"),
        "seconds, measured": lambda c: _is(c, "seconds", "measured"),
        "seconds, extrapolated": lambda c: _is(c, "seconds", "extrapolated"),
        "seconds, bracketed": lambda c: _is(c, "seconds", "bracketed"),
    }
    measured = groups["step, measured"]
    return {
        "cells": len(points),
        "brackets": len(cells) - len(points),
        "series": len(series),
        "series_predicted": len({cell.series for cell in cells}),
        "refused": {"cells": refused.total(), "reasons": dict(refused)},
        "groups": {name: _scores([c for c in cells if chosen(c)]) for name, chosen in groups.items()},
        "step_by_cut": {
            str(cut): _scores([c for c in cells if c.cut == cut and measured(c)])
            for cut in sorted({c.cut for c in cells if measured(c)})
        },
    }


def prices_of_speed(rows: Sequence[TableRow]) -> list[dict[str, Any]]:
    """What a system published: from one number of GPUs to the next, the speed and the GPU-hours to the target."""
    seconds: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.seconds and row.cost and row.devices >= LEAST_CUT:
            seconds[row.series, row.system][row.devices].append(row.seconds)
    found = []
    for (series, system), by_devices in seconds.items():
        for few, many in pairwise(sorted(by_devices)):
            speed = float(np.median(by_devices[few]) / np.median(by_devices[many]))
            found.append({"series": series, "system": system, "from": few, "to": many, "speed": round(speed, 2),
                          "device_hours": round(many / few / speed, 2)})  # fmt: skip
    return found


def _is(cell: Cell, quantity: str, support: str) -> bool:
    return cell.quantity == quantity and cell.support == support


def _scores(cells: Sequence[Cell]) -> dict[str, Any]:
    if not cells:
        return {"n": 0}
    errors = {"model": [c.error for c in cells], "perfect_scaling": [c.perfect for c in cells],
              "nearest_point": [c.nearest for c in cells]}  # fmt: skip
    scores: dict[str, Any] = {"n": len(cells), "series": len({c.series for c in cells})}
    for name, values in errors.items():
        known = 100 * np.abs([value for value in values if not math.isnan(value)])
        if len(known):
            scores[name] = {
                "median": round(float(np.median(known)), 2),
                "p90": round(float(np.quantile(known, 0.9)), 2),
            }
    for i, share in enumerate((80, 95)):
        held, widths = [c.held[i] for c in cells], [c.half_widths[i] for c in cells]
        scores[f"interval_{share}"] = {"held": round(100 * float(np.mean(held)), 1),
                                       "half_width": round(100 * float(np.median(widths)), 1)}  # fmt: skip
    return scores


def print_tables(found: dict[str, Any]) -> None:
    print(f"{found['cells']} numbers predicted and {found['brackets']} bracketed, of {found['series_predicted']} of "
          f"{found['series']} series; {found['refused']['cells']} refused")  # fmt: skip
    for reason, count in found["refused"]["reasons"].items():
        print(f"  {count:4} {reason}")
    heads = ("model", "perfect", "nearest", "80 % holds", "95 % holds", "+-")
    widths = (13, 13, 13, 10, 10, 6)
    columns = " ".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True))
    print(f"\n{'|error| in %: median / 90th percentile':40} {'n':>4} {columns}")
    for name, scores in found["groups"].items():
        _print_line(name, scores)
    for price in found["price_of_speed"]:
        print(f"price of speed, {price['series']} {price['system']}: {price['from']} -> {price['to']} GPUs, "
              f"{price['speed']:.1f} times the speed for {price['device_hours']:.1f} times the GPU-hours")  # fmt: skip
    print("\nstep, measured, by cut")
    for cut, scores in found["step_by_cut"].items():
        _print_line(f"  learned up to {cut}", scores)


def _print_line(name: str, scores: dict[str, Any]) -> None:
    if scores["n"]:
        columns = [
            f"{scores[key]['median']:.1f} / {scores[key]['p90']:.1f}" if key in scores else "-"
            for key in ("model", "perfect_scaling", "nearest_point")
        ]
        wide = scores["interval_95"]
        print(f"{name:40} {scores['n']:4} {columns[0]:>13} {columns[1]:>13} {columns[2]:>13} "
              f"{scores['interval_80']['held']:>9.0f}% {wide['held']:>9.0f}% {wide['half_width']:>5.0f}%")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
