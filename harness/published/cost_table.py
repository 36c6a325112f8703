"""Tables whose rows are runs, or means over runs, with their costs."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from harness.plan.errors import UserError
from harness.plan.outcome import Outcome
from harness.published.columns import VALUE
from harness.published.csv_table import CsvTable, is_number
from harness.published.curves import (
    Meaning,
    PublishedArm,
    PublishedCurve,
    curve,
    observation,
    parse_unit,
)
from harness.published.replicates import (
    Row,
    RunColumns,
    check_not_repeated,
    check_settings,
    replicates,
)
from harness.statistics import words
from harness.statistics.estimates import Observation


class CostTable(CsvTable):
    """Costs over total batch sizes."""

    def costs(self) -> list[PublishedCurve]:
        """Curves of rows that are runs, or means over runs; rows with the same curve and TBS are its runs."""
        size, value = self._needed("total_batch_size"), self._value()
        self._check_size()
        self._check_unit(value)
        sized = [row for row in self.rows if row.text(size)]
        if not sized:
            raise UserError(f"{self.source} has no row with a batch size in column {size}")
        if left_out := len(self.rows) - len(sized):
            self.notes.append(f"{left_out} rows without a batch size left out")
        unknown = [row for row in sized if not row.text(value) or math.isnan(row.amount(value))]
        if misses := sum(row.text(self.columns["outcome"], "reached").lower() == "reached" for row in unknown):
            self.notes.append(f"{words.count(misses, 'row')} without a number in {value} counted as missed")
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
        costs = [name for name in self.header if (match := VALUE.fullmatch(_plain(name))) and _is_cost(match, value)]
        return self._run_columns([*roles, value, *costs])

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
        where = f"{row.source}, line {row.number}"
        if outcome is None:
            raise UserError(f"{where}: outcome must be one of {', '.join(Outcome)}, missed, not {text!r}")
        if outcome is Outcome.REACHED:
            if amount <= 0:
                raise UserError(
                    f"{where}: {value} must be > 0, not {row.text(value)!r}: write inf if the run missed its target"
                )
            return observation(amount)
        if amount < 0:
            raise UserError(f"{where}: {value} must be >= 0, not {row.text(value)!r}")
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
        by_unit = [name for name in self.header if VALUE.fullmatch(_plain(name))]
        by_unit.sort(key=lambda name: not _plain(name).endswith("_to_target"))  # `epochs` next to it may be a budget
        return self.columns["value"] or (by_unit[0] if by_unit else self._needed("value"))

    def _unit_of(self, value: str) -> str:
        match = VALUE.fullmatch(_plain(value))
        if match is None:
            raise UserError(f"{self.source} does not give the unit of {value}: give --unit, e.g. --unit epochs")
        return match.group(1)

    def _check_unit(self, value: str) -> None:
        """UserError if `--unit` is not what the recognised column's name says."""
        own, given = VALUE.fullmatch(_plain(value)), self.options.unit
        if own and given and not self.columns["value"] and parse_unit(own[1]) != parse_unit(given):
            raise UserError(
                f"{self.source}: --unit {given} contradicts the column {value}: leave it out, or give --column "
                f"value={value} as well if its numbers are {parse_unit(given)}"
            )

    def _meaning(self, text: str, target: str, value: str) -> Meaning:
        """The meaning given by a column or the command line; a table that names its target has costs to a target."""
        if text:
            return Meaning.parse(text)
        if self.options.meaning is not None:
            return self.options.meaning
        if target or re.fullmatch(r".+_to_target|olympic_mean", _plain(value)):
            return Meaning.TO_TARGET
        raise UserError(
            f"{self.source} does not say what {value} means: give --meaning to_target (cost to reach a target) or "
            "in_time_budget (what fits into a fixed time)"
        )


def _plain(name: str) -> str:
    return re.sub(r"[ -]+", "_", name.lower())


def _is_cost(match: re.Match[str], value: str) -> bool:
    """Whether a column with a unit's name is a cost like the one in `value`: by its suffix, or as neither has one."""
    own = VALUE.fullmatch(_plain(value))
    return match.group(2) is not None or own is None or own.group(2) is None


def _lr(row: Row, name: str | None) -> float | None:
    """The LR if it is a number; None for a published expression."""
    return float(row.text(name)) if is_number(row.text(name)) else None
