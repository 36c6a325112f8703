"""Tables whose rows are evaluations of runs, or final metrics of runs, read against a target."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.plan.counters import split_offset
from harness.plan.errors import UserError
from harness.plan.target import Target
from harness.published.columns import ReadingOptions
from harness.published.csv_table import CsvTable
from harness.published.curves import (
    Meaning,
    PublishedArm,
    PublishedCurve,
    curve,
    parse_unit,
)
from harness.published.evaluations import hits
from harness.published.positions import (
    check_epochs,
    check_start,
    check_transient,
    closest,
    evaluation_rows,
    place_column,
    place_of,
    unit_of,
)
from harness.published.replicates import (
    RUN_NAMES,
    Row,
    check_settings,
    distinct,
    evaluations_of_run,
    replicates,
)
from harness.statistics import words


@dataclass(frozen=True)
class Finals:
    """Metrics of finished runs at one total batch size, without their curves."""

    label: str
    source: str
    target: Target
    values: tuple[float, ...]


class EvaluationTable(CsvTable):
    """Evaluations of runs, or their final metrics. UserError for a table without the target's metric."""

    def __init__(self, path: Path, options: ReadingOptions) -> None:
        super().__init__(path, options)
        metric = self._target().metric
        if metric not in self.header:
            raise UserError(f"{self.source} has no column {metric!r} for the target: {closest(metric, self.header)}")
        self.rows_with_metric = evaluation_rows(self.rows, metric)
        if left_out := len(self.rows) - len(self.rows_with_metric):
            self.notes.append(f"{words.count(left_out, 'row')} without {metric} left out")
        self._target().check_scale([row.amount(metric) for row in self.rows_with_metric], self.source)

    def evaluations(self) -> list[PublishedCurve]:
        """Every run's evaluations against the given target, in order of their position."""
        self._check_size()
        target = self._target()
        place = self._place(self.rows_with_metric)
        name, is_given = split_offset(place)[0], self.columns["position"] is not None
        unit = parse_unit(self.options.unit or unit_of(name) or name)
        self.notes.insert(0, f"positions: {place}" + (f", counting {unit}" if unit != name else ""))
        columns = self._run_columns([*self._roles("curve", "total_batch_size"), target.metric, name])
        runs: dict[tuple[str, int], dict[str, list[Row]]] = {}
        for row in self.rows_with_metric:
            of_arm = runs.setdefault((self._label(row), self._size(row)), {})
            of_arm.setdefault(row.text(columns.run), []).append(row)
        arms: dict[str, list[PublishedArm]] = {}
        for (label, size), by_name in runs.items():
            what = f"{label} at TBS {size:,}"
            points: dict[str, Sequence[tuple[float, float]]] = {}
            for run, of_run in by_name.items():
                which = f"{what}, {columns.run} {run}" if run else what
                kept = evaluations_of_run(of_run, columns, which, name, self._metric)
                check_transient(kept, target.metric)
                if not is_given:
                    check_start(kept, place, which)
                check_epochs(kept, place, size, self.options.train_examples, which)
                points[run] = [(place_of(row, place), self._metric(row)) for row in kept]
            check_settings([*by_name.values()], columns, what)
            points = distinct(points)
            self.copies += sum(map(len, by_name.values())) - sum(map(len, points.values()))
            met = tuple(hits([at for at, _ in run], [metric for _, metric in run], target) for run in points.values())
            arm = PublishedArm(size, tuple(run.observation for run in met), len(met), hits=met)
            arms.setdefault(label, []).append(arm)
        more = {"target": str(target), "train_examples": self.options.train_examples}
        curves = []
        for label, of_label in arms.items():
            curves += curve(label, self._source(), unit, Meaning.TO_TARGET, of_label, **more)
        return curves

    def finals(self) -> list[Finals]:
        """Final metrics, by curve and TBS: one row for every finished run, which a column has to name.

        Without one, rows may as well be the evaluations of a single run, of which only the last is final.
        """
        target, sized = self._target(), self.columns["total_batch_size"]
        groups: dict[str, list[Row]] = {}
        for row in self.rows_with_metric:
            label = self._label(row) + (f", TBS {row.whole(sized)}" if sized else "")
            groups.setdefault(label, []).append(row)
        columns = self._run_columns([*self._roles("curve", "total_batch_size"), target.metric])
        evaluations = "--column position=NAME with --unit"
        finished: dict[str, list[Row]] = {}
        for label, rows in groups.items():
            if len(rows) > 1 and not all(row.text(columns.run) for row in rows):
                raise UserError(
                    f"{self.source}: no column tells the {len(rows)} runs of {label} apart "
                    f"(one of {', '.join(RUN_NAMES)}): give --column run=NAME if every row is a finished run, or "
                    f"{evaluations} if rows are evaluations"
                )
            finished[label] = replicates(rows, columns, label, lambda row: repr(self._metric(row)), evaluations)
            self.copies += len(rows) - len(finished[label])
        return [
            Finals(label, self._source(), target, tuple(self._metric(row) for row in rows))
            for label, rows in finished.items()
        ]

    @property
    def has_places(self) -> bool:
        return self.columns["position"] is not None or any(unit_of(name) for name in self.header)

    def _place(self, rows: Sequence[Row]) -> str:
        """The column with the position of an evaluation, and what is added to it (`epoch+1`)."""
        if (position := self.columns["position"]) is not None:
            if self.options.unit is None and unit_of(split_offset(position)[0]) is None:
                raise UserError(f"{self.source} does not give the unit of {position}: give --unit, e.g. --unit steps")
            return position
        unit = parse_unit(self.options.unit) if self.options.unit else None
        return place_column(self.source, self.header, rows, unit)

    def _metric(self, row: Row) -> float:
        value = row.amount(self._target().metric)
        return math.nan if math.isinf(value) else value

    def _target(self) -> Target:
        assert self.options.target is not None
        return self.options.target
