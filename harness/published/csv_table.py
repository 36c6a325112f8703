"""Plain CSV tables: costs over total batch sizes, evaluations of runs, or final metrics of runs."""

import csv
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.plan.errors import UserError
from harness.plan.outcome import Outcome
from harness.plan.target import Target
from harness.published.columns import PLACES, ROLES, VALUE, ReadingOptions
from harness.published.curves import (
    UNITS,
    Meaning,
    PublishedArm,
    PublishedCurve,
    curve,
    observation,
    parse_unit,
)
from harness.published.evaluations import hits
from harness.published.replicates import (
    RUN_NAMES,
    Row,
    RunColumns,
    check_not_repeated,
    check_settings,
    distinct,
    evaluations_of_run,
    replicates,
)
from harness.statistics import words
from harness.statistics.estimates import Observation


@dataclass(frozen=True)
class Finals:
    """Metrics of finished runs at one total batch size, without their curves."""

    label: str
    source: str
    target: Target
    values: tuple[float, ...]


class CsvTable:
    """A table and the columns of its roles."""

    def __init__(self, path: Path, options: ReadingOptions) -> None:
        self.source, self.options = path.name, options
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                self.header = [name.strip() for name in reader.fieldnames or ()]
                reader.fieldnames = self.header
                self.rows = [Row(reader.line_num, self.source, row) for row in reader]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path} cannot be read as a CSV table: {error}") from error
        if not self.rows:
            raise UserError(f"{self.source} has no rows")
        self.columns = {role: self._find(role) for role in ROLES}
        self.curves = options.headers("curve") or tuple(name for name in [self.columns["curve"]] if name)
        self.copies = 0  # rows that say nothing new

    def _find(self, role: str) -> str | None:
        for name in (*self.options.headers(role), *self.options.headers("ignore")):
            if name not in self.header:
                raise UserError(f"{self.source} has no column {name!r}: choose one of {', '.join(self.header)}")
        if given := self.options.headers(role):
            return given[0]
        lower = {name.lower(): name for name in reversed(self.header)}
        return next((lower[name] for name in ROLES[role] if name in lower), None)

    def is_evaluations(self) -> bool:
        """Whether a target was given and its metric is a column: rows are then evaluations, or final metrics."""
        return self.options.target is not None and self.options.target.metric in self.header

    def costs(self) -> list[PublishedCurve]:
        """Curves of rows that are runs, or means over runs; rows with the same curve and TBS are its runs."""
        size, value = self._needed("total_batch_size"), self._value()
        sized = [row for row in self.rows if row.text(size)]
        if not sized:
            raise UserError(f"{self.source} has no row with a batch size in column {size}")
        if left_out := len(self.rows) - len(sized):
            self.source += f"; {left_out} rows without a batch size left out"
        groups: dict[tuple[str, str, str, str], list[Row]] = {}
        for row in sized:
            unit = row.text(self.columns["unit"]) or self.options.unit or self._unit_of(value)
            key = (self._label(row), unit, row.text(self.columns["target"]), row.text(self.columns["meaning"]))
            groups.setdefault(key, []).append(row)
        check_not_repeated(sized, self._run_columns([]))
        arms = {key: self._arms(key[0], rows, size, value) for key, rows in groups.items()}
        named = Counter(key[0] for key in groups)
        curves = []
        for key, rows in groups.items():
            label, unit, target, meaning = key
            name = label if named[label] == 1 else ", ".join(filter(None, [label, unit, target, meaning]))
            more = {"target": target, "train_examples": self._train_examples(rows)}
            meant = self._meaning(meaning, target, value)
            curves += curve(name, self._source(), parse_unit(unit), meant, arms[key], **more)
        return curves

    def evaluations(self) -> list[PublishedCurve]:
        """Every run's evaluations against the given target, in order of their position."""
        target, place = self._target(), self._place()
        unit = parse_unit(self.options.unit or place)
        columns = self._run_columns([*self._roles("curve", "total_batch_size"), target.metric, place])
        runs: dict[tuple[str, int], dict[str, list[Row]]] = {}
        for row in self.rows:
            of_arm = runs.setdefault((self._label(row), self._size(row)), {})
            of_arm.setdefault(row.text(columns.run), []).append(row)
        arms: dict[str, list[PublishedArm]] = {}
        for (label, size), by_name in runs.items():
            what = f"{label} at TBS {size:,}"
            points: dict[str, Sequence[tuple[float, float]]] = {}
            for name, rows in by_name.items():
                kept = evaluations_of_run(
                    rows, columns, f"{what}, {columns.run} {name}" if name else what, place, self._metric
                )
                points[name] = [(row.amount(place), self._metric(row)) for row in kept]
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
        for row in self.rows:
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
        return self.columns["position"] is not None or any(name.lower() in UNITS for name in self.header)

    def _arms(self, label: str, rows: Sequence[Row], size: str, value: str) -> list[PublishedArm]:
        """Single runs of one TBS share an arm; every mean is its own arm."""
        arms: list[PublishedArm] = []
        single: dict[int, list[Row]] = {}
        means: dict[int, list[Row]] = {}
        runs, sd, lr = self.columns["runs"], self.columns["sd"], self.columns["lr"]
        for row in rows:
            count = row.whole(runs) if runs and row.text(runs) else 1
            if count == 1 and not row.text(sd):
                single.setdefault(row.whole(size), []).append(row)
                continue
            means.setdefault(row.whole(size), []).append(row)
            spread = row.amount(sd) if sd and row.text(sd) else None
            mean = (self._observation(row, value),)
            arms.append(PublishedArm(row.whole(size), mean, count, spread, _lr(row, lr), f"a mean of {count} runs"))
        for tbs, rows_of_tbs in means.items():
            columns = replace(self._cost_columns(value), are_means=True)
            check_settings([[row] for row in rows_of_tbs], columns, f"{label} at TBS {tbs:,}")
        for tbs, rows_of_tbs in single.items():
            kept = self._replicates(rows_of_tbs, f"{label} at TBS {tbs:,}", value)
            self.copies += len(rows_of_tbs) - len(kept)
            observed = tuple(self._observation(row, value) for row in kept)
            arms.append(PublishedArm(tbs, observed, len(observed), lr=_lr(kept[0], lr)))
        return arms

    def _replicates(self, rows: Sequence[Row], what: str, value: str) -> list[Row]:
        outcome = self.columns["outcome"]

        def cost(row: Row) -> tuple[float, str]:
            return row.amount(value), row.text(outcome, "reached").lower()

        return replicates(rows, self._cost_columns(value), what, cost, "--target METRIC>=VALUE")

    def _cost_columns(self, value: str) -> RunColumns:
        roles = self._roles("total_batch_size", "unit", "meaning", "curve", "runs", "sd", "outcome", "target")
        # The same cost in other units, where the cost's own column is named like theirs: else `epochs` is a budget.
        costs = [name for name in self.header if (match := VALUE.fullmatch(name.lower())) and _is_cost(match, value)]
        return self._run_columns([*roles, value, *costs])

    def _run_columns(self, results: Sequence[str]) -> RunColumns:
        return RunColumns(self.header, self.columns["run"], results, self.options.headers("ignore"))

    def _roles(self, *roles: str) -> list[str]:
        """The columns that have these roles."""
        found = [*self.curves] if "curve" in roles else []
        return found + [name for role in roles if role != "curve" and (name := self.columns[role])]

    def _source(self) -> str:
        if not self.copies:
            return self.source
        return f"{self.source}; {words.count(self.copies, 'row')} left out as copies of others"

    def _train_examples(self, rows: Sequence[Row]) -> int | None:
        name = self.columns["train_examples"]
        if self.options.train_examples or name is None:
            return self.options.train_examples
        sizes = list(dict.fromkeys(row.whole(name) for row in rows))
        if len(sizes) > 1:
            raise UserError(
                f"{self.source}: {name} of {self._label(rows[0])} is {sizes[0]:,} and {sizes[1]:,}: give --column "
                f"curve={name} to keep them apart"
            )
        return sizes[0]

    def _observation(self, row: Row, value: str) -> Observation:
        amount, text = row.amount(value), row.text(self.columns["outcome"], "reached").lower()
        outcome = Outcome.CENSORED if text == "missed" else next((kind for kind in Outcome if kind == text), None)
        if outcome is None:
            raise UserError(
                f"{row.source}, line {row.number}: outcome must be one of {', '.join(Outcome)}, missed, not {text!r}"
            )
        if outcome is Outcome.REACHED:
            return observation(amount)
        return Observation(outcome, math.inf, amount if math.isfinite(amount) else 0.0)

    def _needed(self, role: str) -> str:
        name = self.columns[role]
        if name is None:
            raise UserError(
                f"{self.source} has no column for {role}: give --column {role}=NAME with NAME one of "
                f"{', '.join(self.header)}; or --target METRIC>=VALUE if its rows are evaluations"
            )
        return name

    def _value(self) -> str:
        """The column of costs, recognised by name or by unit."""
        by_unit = [name for name in self.header if VALUE.fullmatch(name.lower())]
        by_unit.sort(key=lambda name: not name.lower().endswith("_to_target"))  # `epochs` next to it may be a budget
        return self.columns["value"] or (by_unit[0] if by_unit else self._needed("value"))

    def _unit_of(self, value: str) -> str:
        match = VALUE.fullmatch(value.lower())
        if match is None:
            raise UserError(f"{self.source} does not give the unit of {value}: give --unit, e.g. --unit epochs")
        return match.group(1)

    def _meaning(self, text: str, target: str, value: str) -> Meaning:
        """The meaning given by a column or the command line; a table that names its target has costs to a target."""
        if text:
            return Meaning.parse(text)
        if self.options.meaning is not None:
            return self.options.meaning
        if target or re.fullmatch(r".+_to_target|olympic_mean", value.lower()):
            return Meaning.TO_TARGET
        raise UserError(
            f"{self.source} does not say what {value} means: give --meaning to_target (cost to reach a target) or "
            "in_time_budget (what fits into a fixed time)"
        )

    def _label(self, row: Row) -> str:
        texts = [(column, text) for column in self.curves if (text := row.text(column))]
        name = ", ".join(f"{column} {text}" if _is_number(text) else text for column, text in texts)
        if self.options.label:
            return f"{self.options.label} {name}".strip()
        return name or Path(self.source).stem

    def _size(self, row: Row) -> int:
        if self.options.batch_size is not None:
            return self.options.batch_size
        name = self.columns["total_batch_size"]
        if name is None:
            raise UserError(f"{self.source} has no column for total_batch_size: give --batch-size N")
        return row.whole(name)

    def _place(self) -> str:
        """The column with the position of an evaluation."""
        if (position := self.columns["position"]) is not None:
            if self.options.unit is None and position.lower() not in UNITS:
                raise UserError(f"{self.source} does not give the unit of {position}: give --unit, e.g. --unit steps")
            return position
        by_unit = {UNITS[name.lower()]: name for name in reversed(self.header) if name.lower() in UNITS}
        given = self.options.unit
        unit = parse_unit(given) if given else next(unit for unit in PLACES if unit in by_unit)
        if unit not in by_unit:
            raise UserError(
                f"{self.source} has no column for {unit}, only {', '.join(self.header)}: give --column position=NAME"
            )
        return by_unit[unit]

    def _metric(self, row: Row) -> float:
        value = row.amount(self._target().metric)
        return math.nan if math.isinf(value) else value

    def _target(self) -> Target:
        assert self.options.target is not None
        return self.options.target


def _is_cost(match: re.Match[str], value: str) -> bool:
    """Whether a column with a unit's name is a cost like the one in `value`: by its suffix, or as neither has one."""
    own = VALUE.fullmatch(value.lower())
    return match.group(2) is not None or own is None or own.group(2) is None


def _lr(row: Row, name: str | None) -> float | None:
    """The LR if it is a number; None for a published expression."""
    return float(row.text(name)) if _is_number(row.text(name)) else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
