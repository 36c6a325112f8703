"""Which rows of a table are evaluations, and where each of them stands (P30)."""

import math
from collections.abc import Mapping, Sequence

from harness.plan.counters import (
    Counter,
    counter_of,
    counts_from_zero,
    epochs_disagree,
    plain_name,
    split_offset,
)
from harness.plan.errors import UserError
from harness.published.columns import PLACES
from harness.published.curves import UNITS
from harness.published.replicates import Row

METRIC_NAMES = ("key", "metric", "tag", "variable", "name")  # columns that name the metric of a row
STEPS = "steps"  # a table's word for updates


def unit_of(name: str) -> str | None:
    """The unit that a column's name says its positions have; None for other names."""
    counter = counter_of(name)
    if counter is not None:
        return STEPS if counter is Counter.UPDATES else str(counter)
    return UNITS.get(plain_name(name))


def place_column(source: str, header: Sequence[str], rows: Sequence[Row], unit: str | None) -> str:
    """The column with the positions of evaluations: by its name, and in `unit` if given. UserError if two disagree."""
    by_unit: dict[str, list[str]] = {}
    for name in header:
        if (of_name := unit_of(name)) is not None:
            by_unit.setdefault(of_name, []).append(name)
    wanted = unit or next(known for known in PLACES if known in by_unit)
    if wanted not in by_unit:
        raise UserError(f"{source} has no column for {wanted}, only {', '.join(header)}: give --column position=NAME")
    first, *others = by_unit[wanted]
    for row in rows:
        for other in others:
            if row.text(first) and row.text(other) and row.amount(first) != row.amount(other):
                raise UserError(
                    f"{source}, line {row.number}: {first} is {row.text(first)} and {other} is {row.text(other)}: give "
                    f"--column position={first} or position={other}"
                )
    return first


def rows_of_metric(header: Sequence[str], rows: Sequence[Row], metric: str) -> tuple[list[str], list[Row]]:
    """A long table (`key,value,step` of MLflow, `tag,step,value` of TensorBoard) as one with the metric as a column."""
    plain = {plain_name(name): name for name in header}
    named = [plain[name] for name in METRIC_NAMES if name in plain]
    key = next((name for name in named if any(row.text(name) == metric for row in rows)), None)
    value = plain.get("value")
    if metric in header or key is None or value is None:
        return list(header), list(rows)
    kept = [name for name in header if name not in (key, value)]
    of_metric = [row for row in rows if row.text(key) == metric]
    return [*kept, metric], [
        Row(row.number, row.source, {name: row.text(name) for name in kept} | {metric: row.text(value)})
        for row in of_metric
    ]


def evaluation_rows(rows: Sequence[Row], metric: str) -> list[Row]:
    """Rows that have the metric: one without it is of another kind, e.g. of the training loss."""
    kept = [row for row in rows if row.text(metric)]
    if not kept:
        raise UserError(f"{rows[0].source} has no value in column {metric!r}")
    return kept


def check_transient(rows: Sequence[Row], metric: str) -> None:
    """UserError if a run's metric is `nan` and then a number again: such a row may be of another kind."""
    unknown: Row | None = None
    for row in rows:
        if math.isnan(row.amount(metric)):
            unknown = unknown or row
        elif unknown is not None:
            raise UserError(
                f"{row.source}, line {unknown.number}: {metric} is {unknown.text(metric)} between evaluations of one "
                "run: leave the cell empty if its row is no evaluation"
            )


def place_of(row: Row, column: str) -> float:
    """A row's position; UserError for an empty or negative one."""
    name, offset = split_offset(column)
    at = row.amount(name)
    if not 0 <= at < math.inf:
        raise UserError(f"{row.source}, line {row.number}: {name} must be a number >= 0, not {row.text(name)!r}")
    return at + offset


def check_start(rows: Sequence[Row], column: str, what: str) -> None:
    """UserError if a counter that was recognised by its name seems to be one behind what was trained."""
    places = [place_of(row, column) for row in rows]
    if counts_from_zero(places):
        shown = ", ".join(f"{place:g}" for place in sorted(set(places))[:3])
        raise UserError(
            f"{rows[0].source}: {column} of {what} is {shown}: give --column position={column}+1 if it counts from 0 "
            f"(and the first evaluation is after {min(places) + 1:g}), or --column position={column} if it is right"
        )


def check_epochs(rows: Sequence[Row], column: str, size: int, train_examples: int | None, what: str) -> None:
    """UserError if updates and epochs of the same rows contradict each other, so that TBS or N is another."""
    if train_examples is None or unit_of(split_offset(column)[0]) != STEPS:
        return
    name = next((name for name in rows[0].cells if unit_of(name) == "epochs"), None)
    rows = [row for row in rows if name and row.text(name)]
    if name is None or not rows:
        return
    examples = [place_of(row, column) * size for row in rows]
    wrong = epochs_disagree(examples, [row.amount(name) for row in rows], train_examples, size)
    if wrong is not None:
        row = rows[wrong]
        raise UserError(
            f"{row.source}, line {row.number}: {place_of(row, column):g} updates of {size:,} examples ({what}) are "
            f"{examples[wrong] / train_examples:.3g} epochs of {train_examples:,}, but {name} is {row.text(name)}: "
            "check the total batch size, --train-examples, or give --column position=NAME"
        )


def closest(name: str, header: Sequence[str] | Mapping[str, str]) -> str:
    """`: did you mean 'val_acc'?` for a column that is not there, or all there are."""
    from difflib import get_close_matches

    by_plain = {plain_name(column): column for column in reversed(list(header))}
    near = get_close_matches(plain_name(name), list(by_plain), 1)
    return f"did you mean {by_plain[near[0]]!r}?" if near else f"choose one of {', '.join(header)}"
