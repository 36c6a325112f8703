"""A table of published numbers, the columns of its roles, and what rows of costs and of evaluations share."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness.plan.batch_factors import factors, lacks_devices, missing_factors
from harness.plan.counters import plain_name, split_offset
from harness.plan.errors import UserError
from harness.published.columns import ROLES, ReadingOptions
from harness.published.positions import closest, rows_of_metric
from harness.published.replicates import Row, RunColumns
from harness.published.text_table import read_table
from harness.published.wandb_chart import chart_rows, is_chart
from harness.statistics import words


class CsvTable:
    """A table and the columns of its roles."""

    def __init__(self, path: Path, options: ReadingOptions) -> None:
        self.source, self.options = path.name, options
        self.header, self.rows = read_table(path)
        if is_chart(self.header, options.target):
            self.header, self.rows = chart_rows(self.source, self.header, self.rows, options)
        elif options.target is not None:
            self.header, self.rows = rows_of_metric(self.header, self.rows, options.target.metric)
        self.notes: list[str] = []  # how rows were read, for the source of the curves
        self._multiply()
        self.columns = {role: self._find(role) for role in ROLES}
        self.curves = options.headers("curve") or tuple(name for name in [self.columns["curve"]] if name)
        self.copies = 0  # rows that say nothing new

    def _multiply(self) -> None:
        """A column for a total batch size that is given as a product of columns."""
        for product in self.options.headers("total_batch_size"):
            names = [part for part in factors(product) if not part.isdigit()]
            if product in self.header or len(factors(product)) == 1:
                continue
            for name in names:
                self._check_column(name)
            rest = math.prod(int(part) for part in factors(product) if part.isdigit())
            sizes = [rest * math.prod(row.whole(name) for name in names) for row in self.rows]
            self.rows = [
                replace(row, cells={**row.cells, product: str(size)})
                for row, size in zip(self.rows, sizes, strict=True)
            ]
            self.header = [*self.header, product]
            self.notes.append(f"total batch size: {product}")

    def _find(self, role: str) -> str | None:
        for name in (*self.options.headers(role), *self.options.headers("ignore")):
            if name not in self.header:
                self._check_column(split_offset(name)[0] if role == "position" else name)
        if given := self.options.headers(role):
            return given[0]
        plain = {plain_name(name): name for name in reversed(self.header)}
        return next((plain[name] for name in ROLES[role] if name in plain), None)

    def _check_column(self, name: str) -> None:
        if name not in self.header:
            raise UserError(f"{self.source} has no column {name!r}: {closest(name, self.header)}")

    def _check_size(self) -> None:
        """UserError for a total batch size that is one factor of it, by the columns next to it (P30)."""
        size = self.columns["total_batch_size"]
        if size is None or self.options.batch_size is not None:
            return
        largest = {name: max((row.amount(name) for row in self.rows if is_number(row.text(name))), default=1.0)
                   for name in self.header if name != size}  # fmt: skip
        missing = missing_factors(size, largest, self.options.headers("ignore"))
        if missing:
            raise UserError(
                f"{self.source}: is {size} the total batch size, next to {missing[0]} {largest[missing[0]]:g}? Give "
                f"--column total_batch_size={'*'.join([size, *missing])}, or --column ignore={missing[0]} if it is"
            )
        if lacks_devices(size):
            raise UserError(
                f"{self.source}: {size} is a size per device: give --column total_batch_size={size}*N with N devices "
                "(or the column that has it)"
            )

    def _run_columns(self, results: Sequence[str]) -> RunColumns:
        return RunColumns(self.header, self.columns["run"], results, self.options.headers("ignore"))

    def _roles(self, *roles: str) -> list[str]:
        """The columns that have these roles."""
        found = [*self.curves] if "curve" in roles else []
        return found + [name for role in roles if role != "curve" and (name := self.columns[role])]

    def _source(self) -> str:
        copies = [f"{words.count(self.copies, 'row')} left out as copies of others"] if self.copies else []
        return "; ".join([self.source, *self.notes, *copies])

    def _label(self, row: Row) -> str:
        texts = [(column, text) for column in self.curves if (text := row.text(column))]
        name = ", ".join(f"{column} {text}" if is_number(text) else text for column, text in texts)
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


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
