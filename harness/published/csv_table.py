"""Plain CSV tables: costs over total batch sizes, evaluations of runs, or final metrics of runs.

Columns are found by their usual names, or as given by `--column ROLE=NAME`; docs/published.md lists them.
"""

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.plan.errors import UserError
from harness.plan.outcome import Outcome
from harness.plan.target import Target
from harness.published.curves import (
    UNITS,
    Meaning,
    PublishedArm,
    PublishedCurve,
    curve,
    observation,
    parse_unit,
)
from harness.published.evaluations import Hits, hits
from harness.statistics.estimates import Observation

ROLES: dict[str, tuple[str, ...]] = {
    "total_batch_size": ("total_batch_size", "tbs", "global_batch_size", "batch_size", "minibatch", "bs"),
    "value": ("value", "olympic_mean", "mean", "median"),  # or a unit's name, see VALUE
    "unit": ("unit",),
    "meaning": ("meaning",),
    "curve": ("curve", "benchmark", "scaling_rule", "rule", "setting"),
    "runs": ("runs", "n_runs", "n"),
    "sd": ("sd", "std", "stdev", "pstdev_trimmed"),
    "lr": ("lr", "peak_lr", "base_lr", "learning_rate"),
    "outcome": ("outcome",),
    "target": ("target",),
    "train_examples": ("train_examples",),
    "run": ("run", "seed", "trial", "trial_id"),
}
VALUE = re.compile(rf"({'|'.join(UNITS)})(_to_target|_published|_mean|_median)?")
PLACES = ("epochs", "examples", "tokens", "steps", "seconds")  # units of an evaluation's position, preferred first


@dataclass(frozen=True)
class Finals:
    """Metrics of finished runs at one total batch size, without their curves."""

    label: str
    source: str
    target: Target
    values: tuple[float, ...]


@dataclass(frozen=True)
class ReadingOptions:
    """What the command line says about a file that does not say it itself."""

    unit: str | None = None
    meaning: Meaning | None = None
    target: Target | None = None
    batch_size: int | None = None
    train_examples: int | None = None
    label: str | None = None
    columns: Mapping[str, str] | None = None  # role -> header

    def __post_init__(self) -> None:
        wrong = [role for role in self.columns or () if role not in ROLES]
        if wrong:
            raise UserError(f"--column must be ROLE=NAME with ROLE one of {', '.join(ROLES)}, not {wrong[0]!r}")


@dataclass(frozen=True)
class _Row:
    """One row; `number` is its line in the file."""

    number: int
    source: str
    cells: Mapping[str, str]

    def text(self, name: str | None, default: str = "") -> str:
        return default if name is None else (self.cells.get(name) or "").strip() or default

    def amount(self, name: str | None) -> float:
        """A number; infinity for an empty cell, UserError for anything else."""
        text = self.text(name)
        try:
            return float(text) if text else math.inf
        except ValueError as error:
            raise UserError(f"{self.source}, line {self.number}: {name} must be a number, not {text!r}") from error

    def whole(self, name: str) -> int:
        value = self.amount(name)
        if not (math.isfinite(value) and value == int(value) and value >= 1):
            raise UserError(
                f"{self.source}, line {self.number}: {name} must be an integer >= 1, not {self.text(name)!r}"
            )
        return int(value)


class CsvTable:
    """A table and the columns of its roles."""

    def __init__(self, path: Path, options: ReadingOptions) -> None:
        self.source, self.options = path.name, options
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                self.header = [name.strip() for name in reader.fieldnames or ()]
                reader.fieldnames = self.header
                self.rows = [_Row(reader.line_num, self.source, row) for row in reader]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path} cannot be read as a CSV table: {error}") from error
        if not self.rows:
            raise UserError(f"{self.source} has no rows")
        self.columns = {role: self._find(role) for role in ROLES}

    def _find(self, role: str) -> str | None:
        given = (self.options.columns or {}).get(role)
        if given is not None:
            if given not in self.header:
                raise UserError(f"{self.source} has no column {given!r}: choose one of {', '.join(self.header)}")
            return given
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
        groups: dict[tuple[str, str, str], list[_Row]] = {}
        for row in sized:
            unit = row.text(self.columns["unit"]) or self.options.unit or self._unit_of(value)
            groups.setdefault((self._label(row), unit, row.text(self.columns["target"])), []).append(row)
        curves = []
        for (label, unit, target), rows in groups.items():
            arms = self._arms(rows, size, value)
            meaning, trained = self._meaning(rows[0], value), self.columns["train_examples"]
            train = self.options.train_examples or (rows[0].whole(trained) if trained else None)
            more = {"target": target, "train_examples": train}
            curves += curve(label, self.source, parse_unit(unit), meaning, arms, **more)
        return curves

    def evaluations(self) -> list[PublishedCurve]:
        """Every run's evaluations against the given target, in order of their position."""
        target, place = self._target(), self._place()
        runs: dict[tuple[str, int, str], list[tuple[float, float]]] = {}
        for row in self.rows:
            key = (self._label(row), self._size(row), row.text(self.columns["run"], "0"))
            runs.setdefault(key, []).append((row.amount(place), self._metric(row)))
        arms: dict[str, dict[int, list[Hits]]] = {}
        for (label, size, _), points in runs.items():
            points.sort(key=lambda point: point[0])
            run = hits([place for place, _ in points], [metric for _, metric in points], target)
            arms.setdefault(label, {}).setdefault(size, []).append(run)
        curves = []
        for label, by_size in arms.items():
            published = [
                PublishedArm(size, tuple(run.observation for run in runs_), len(runs_), hits=tuple(runs_))
                for size, runs_ in by_size.items()
            ]
            more = {"target": str(target), "train_examples": self.options.train_examples}
            curves += curve(label, self.source, UNITS[place.lower()], Meaning.TO_TARGET, published, **more)
        return curves

    def finals(self) -> list[Finals]:
        """Final metrics, by curve and TBS."""
        values: dict[str, list[float]] = {}
        sized = self.columns["total_batch_size"]
        for row in self.rows:
            label = self._label(row) + (f", TBS {row.whole(sized)}" if sized else "")
            values.setdefault(label, []).append(self._metric(row))
        return [Finals(label, self.source, self._target(), tuple(metrics)) for label, metrics in values.items()]

    @property
    def has_places(self) -> bool:
        return any(name.lower() in UNITS for name in self.header)

    def _arms(self, rows: Sequence[_Row], size: str, value: str) -> list[PublishedArm]:
        """Single runs of one TBS share an arm; every mean is its own arm."""
        arms: list[PublishedArm] = []
        single: dict[int, list[_Row]] = {}
        runs, sd, lr = self.columns["runs"], self.columns["sd"], self.columns["lr"]
        for row in rows:
            count = row.whole(runs) if runs and row.text(runs) else 1
            if count == 1 and not row.text(sd):
                single.setdefault(row.whole(size), []).append(row)
                continue
            spread = row.amount(sd) if sd and row.text(sd) else None
            mean = (self._observation(row, value),)
            arms.append(PublishedArm(row.whole(size), mean, count, spread, _lr(row, lr), f"a mean of {count} runs"))
        for tbs, runs_of_tbs in single.items():
            observed = tuple(self._observation(row, value) for row in runs_of_tbs)
            arms.append(PublishedArm(tbs, observed, len(observed), lr=_lr(runs_of_tbs[0], lr)))
        return arms

    def _observation(self, row: _Row, value: str) -> Observation:
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
        by_unit = next((name for name in self.header if VALUE.fullmatch(name.lower())), None)
        return self.columns["value"] or by_unit or self._needed("value")

    def _unit_of(self, value: str) -> str:
        match = VALUE.fullmatch(value.lower())
        if match is None:
            raise UserError(f"{self.source} does not give the unit of {value}: give --unit, e.g. --unit epochs")
        return match.group(1)

    def _meaning(self, row: _Row, value: str) -> Meaning:
        """The meaning given by a column or the command line; a table that names its target has costs to a target."""
        text = row.text(self.columns["meaning"])
        if text:
            return Meaning.parse(text)
        if self.options.meaning is not None:
            return self.options.meaning
        if row.text(self.columns["target"]) or re.fullmatch(r".+_to_target|olympic_mean", value.lower()):
            return Meaning.TO_TARGET
        raise UserError(
            f"{self.source} does not say what {value} means: give --meaning to_target (cost to reach a target) or "
            "in_time_budget (what fits into a fixed time)"
        )

    def _label(self, row: _Row) -> str:
        name = row.text(self.columns["curve"])
        if self.options.label:
            return f"{self.options.label} {name}".strip()
        return name or Path(self.source).stem

    def _size(self, row: _Row) -> int:
        if self.options.batch_size is not None:
            return self.options.batch_size
        name = self.columns["total_batch_size"]
        if name is None:
            raise UserError(f"{self.source} has no column for total_batch_size: give --batch-size N")
        return row.whole(name)

    def _place(self) -> str:
        """The column with the position of an evaluation."""
        by_unit = {UNITS[name.lower()]: name for name in reversed(self.header) if name.lower() in UNITS}
        given = self.options.unit
        unit = parse_unit(given) if given else next(unit for unit in PLACES if unit in by_unit)
        if unit not in by_unit:
            raise UserError(f"{self.source} has no column for {unit}, only {', '.join(self.header)}")
        return by_unit[unit]

    def _metric(self, row: _Row) -> float:
        value = row.amount(self._target().metric)
        return math.nan if math.isinf(value) else value

    def _target(self) -> Target:
        assert self.options.target is not None
        return self.options.target


def _lr(row: _Row, name: str | None) -> float | None:
    """The LR if it is a number; None for a published expression."""
    try:
        return float(row.text(name)) if row.text(name) else None
    except ValueError:
        return None
