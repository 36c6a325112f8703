"""A trial's evaluations kept column by column: the rows of 10,000 trials fit into memory, and a metric is one lookup.

Read as a sequence of journal rows like a list of them; a row is put together when it is asked for.
"""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from typing import Any, overload

from harness.plan.target import Target

Path = tuple[str, ...]
_ABSENT = object()  # in a column: this row has no such key


class Evaluations(Sequence[Mapping[str, Any]]):
    """Journal rows by columns; numbers of one type take 8 bytes each."""

    __slots__ = ("_columns", "_length")

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._length = len(rows)
        self._columns: dict[Path, Sequence[Any]] = {}
        _spread(rows, (), self._columns)

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[Mapping[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> Mapping[str, Any] | list[Mapping[str, Any]]:
        if isinstance(index, slice):
            return [self._row(i) for i in range(*index.indices(self._length))]
        if not -self._length <= index < self._length:
            raise IndexError(index)
        return self._row(index % self._length)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return (self._row(index) for index in range(self._length))

    def column(self, *path: str) -> Sequence[Any]:
        """The values under nested keys, None where a row has none."""
        values = self._columns.get(path)
        if values is None:
            is_mixed = any(path[:depth] in self._columns for depth in range(1, len(path)))
            return column(list(self), *path) if is_mixed else [None] * self._length
        return values if isinstance(values, array) else [None if value is _ABSENT else value for value in values]

    def _row(self, index: int) -> dict[str, Any]:
        row: dict[str, Any] = {}
        for path, values in self._columns.items():
            if values[index] is not _ABSENT:
                inner = row
                for key in path[:-1]:
                    inner = inner.setdefault(key, {})
                inner[path[-1]] = values[index]
        return row


def column(evaluations: Sequence[Mapping[str, Any]], *path: str) -> Sequence[Any]:
    """The values under nested keys of journal rows, however they are kept; None where a row has none."""
    if isinstance(evaluations, Evaluations):
        return evaluations.column(*path)
    found: list[Any] = list(evaluations)
    for key in path:
        found = [row.get(key) if isinstance(row, Mapping) else None for row in found]
    return found


def metric_column(evaluations: Sequence[Mapping[str, Any]], target: Target, weights: str) -> Sequence[float | None]:
    """The target's metric on the validation split for `weights` (raw | averaged), None where it was not a number."""
    return column(evaluations, "validation", weights, target.metric)


def _spread(rows: Sequence[Mapping[str, Any]], path: Path, columns: dict[Path, Sequence[Any]]) -> None:
    """Add a column for every leaf below `path`; what is a dictionary in every row that has it goes one level deeper."""
    for key in dict.fromkeys(chain.from_iterable(rows)):
        try:
            values = list(map(itemgetter(key), rows))
        except KeyError:
            values = [row.get(key, _ABSENT) for row in rows]
        place, kinds = _known((*path, key)), set(map(type, values))
        if kinds == {dict} and all(values):
            _spread(values, place, columns)
        elif dict in kinds and all(value is _ABSENT or (type(value) is dict and value) for value in values):
            _spread([{} if value is _ABSENT else value for value in values], place, columns)
        else:
            columns[place] = _packed(values, kinds)


def _packed(values: list[Any], kinds: set[type]) -> Sequence[Any]:
    if kinds == {float}:
        return array("d", values)
    if kinds == {int} and all(abs(value) < 2**63 for value in values):
        return array("q", values)
    return values


@lru_cache(maxsize=4096)
def _known(path: Path) -> Path:
    """One tuple for all trials that have the key."""
    return path
