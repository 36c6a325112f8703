"""Columns that the user adds to the table of arms: functions of a finished arm, named by their dotted paths."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

from harness.plan.errors import UserError
from harness.plan.imports import import_named, user_code

ColumnValue = float | int | str | None


@dataclass(frozen=True)
class ArmColumn:
    """A column of the user's own."""

    path: str  # e.g. mine.examples_per_update
    function: Callable[[Any], Any] = field(compare=False, repr=False)  # of an ArmFinding

    @property
    def name(self) -> str:
        """Its name in results.csv; tables that are read have spaces for underscores."""
        return self.path.rpartition(".")[2]

    @property
    def note(self) -> str:
        """The first line of the function's docstring; nothing where it has none."""
        lines = (inspect.getdoc(self.function) or "").splitlines()
        return lines[0] if lines else ""

    def value(self, arm: Any) -> ColumnValue:
        """The cell of an ArmFinding as plain data. Raises UserError, without the column's name, where there is none."""
        with user_code():
            value = self.function(arm)
        if value is None or isinstance(value, str):
            return None if value is None else " ".join(value.split())
        if isinstance(value, Real) and not isinstance(value, bool):  # NumPy's numbers become Python's
            return int(value) if isinstance(value, Integral) else float(value)
        raise UserError(f"it must return a number, a string or None, not {type(value).__name__}")


def arm_columns(paths: Sequence[str]) -> tuple[ArmColumn, ...]:
    """The columns of these dotted paths; UserError for what cannot be imported or called with one arm."""
    columns = tuple(map(_imported, paths))
    names = [column.name for column in columns]
    if len(set(names)) < len(names):
        raise UserError(f"arm_columns: the functions must have different names, not {', '.join(names)}")
    return columns


def _imported(path: str) -> ArmColumn:
    module, _, name = path.rpartition(".")
    if not module:
        raise UserError(f"arm_columns must be dotted paths like mine.examples_per_update, not {path!r}")
    try:
        function: Any = getattr(import_named(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"arm_columns: {path} cannot be imported: {error}") from error
    if not callable(function):
        raise UserError(f"arm_columns: {path} is not a function of an arm")
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        raise UserError(f"arm_columns: {path} must take one argument, the arm: {error}") from error
    except ValueError:
        pass  # a C function may have no signature
    return ArmColumn(path, function)
