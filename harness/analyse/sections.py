"""A section of a report as plain data: what one question adds to the tables and figures that every study has."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.plan.errors import UserError

FILE_NAME = re.compile(r"\w[\w.+-]*")


def check_file_name(name: str) -> None:
    """Raises UserError for the name of a figure or a table that would lead out of its folder, or into another."""
    if not FILE_NAME.fullmatch(name):
        raise UserError(f"a figure or table is named {name!r}: its files need letters, digits and _ . + -")


@dataclass(frozen=True)
class Series:
    """One line or set of points of a plot; `low` and `high` are the ends of an interval at each point."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    kind: str = (
        "points"  # points | line (points joined) | curve (no points: a fit) | band (a curve with its interval filled)
    )
    hollow: Sequence[bool] | None = None  # bounds, as of trials that missed the target; no line joins them
    interval: Sequence[str] | None = None  # what (low, high) is at each point, with its coverage


@dataclass(frozen=True)
class Reference:
    """A straight mark to compare with: a vertical or horizontal line at `at`."""

    label: str
    at: float
    axis: str = "x"  # x: a vertical line at x = at | y: a horizontal one


@dataclass(frozen=True)
class Plot:
    """One figure; whoever draws it adds nothing to the numbers."""

    name: str  # of its files: lower-case words joined by underscores, unique in a study
    title: str
    alt: str  # the finding in words
    x_label: str  # with unit
    y_label: str
    series: Sequence[Series]
    references: Sequence[Reference] = ()
    x_log: int | None = None  # base of a logarithmic axis; None: linear
    y_log: int | None = None

    def __post_init__(self) -> None:
        check_file_name(self.name)


@dataclass(frozen=True)
class Table:
    """Numbers under named columns; written to tables/<name>.csv as they are, and rounded for reading."""

    name: str
    columns: Sequence[str]  # with units, e.g. `lr`, `epochs_to_target`
    rows: Sequence[Sequence[str | float | int | None]]  # None: unknown; inf: a miss
    names: Sequence[str] = ()  # those of the columns that name something of the study's, like a rule

    def __post_init__(self) -> None:
        check_file_name(self.name)
        assert all(len(row) == len(self.columns) for row in self.rows)
        assert len(set(self.columns)) == len(self.columns), self.columns


@dataclass(frozen=True)
class Section:
    """One step of an answer: what was found in words, its figures and its table."""

    title: str
    sentences: Sequence[str]
    plots: Sequence[Plot] = ()
    tables: Sequence[Table] = field(default_factory=tuple)
