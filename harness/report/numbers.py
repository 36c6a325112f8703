"""How numbers are written, the same in every renderer."""

import math
from collections.abc import Sequence

from harness.analyse.arms import ArmFinding, Place
from harness.analyse.sections import Table
from harness.statistics import words
from harness.statistics.prediction import PredictionBound


def tick(value: float) -> str:
    """A number on an axis, where there is room for seven characters: from a million on in M, G and T."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(value) >= size:
            return f"{words.number(value / size)}{letter}"
    return words.number(value)


def place(found: Place, per: float, digits: int = 3) -> str:
    """The median in units of `per` examples, or "> x" where stopped trials hide it."""
    if math.isinf(found.examples):
        return beyond(found.at_least / per, digits)
    return words.number(found.examples / per, digits)


def beyond(at_least: float, digits: int = 3) -> str:
    """A median that stopped trials hide, in a table's cell: `> 40`."""
    return f"> {words.number(at_least, digits)}" if math.isfinite(at_least) else words.INFINITY


def bound(found: PredictionBound, per: float) -> str:
    """What to budget for a new run in units of `per` examples, or "> x" where the trials bound nothing."""
    return beyond(found.at_least / per) if math.isinf(found.value) else words.number(found.value / per)


def span(found: Place, per: float, digits: int = 3) -> str:
    """The interval's ends in units of `per` examples, with its coverage unless that is 95 %; a dash where it excludes
    nothing."""
    if excludes_nothing(found):
        return words.NO_VALUE
    return f"{_ends(found, per, digits)}{words.unusual_coverage(found.coverage)}"


def described(found: Place, per: float, digits: int = 3) -> str:
    """The interval with what it is: `3.7–5.05, pooled t on log 95 %`."""
    return found.interval if excludes_nothing(found) else f"{_ends(found, per, digits)}, {found.interval}"


def excludes_nothing(found: Place) -> bool:
    return found.low <= 0 and found.high == math.inf


def _ends(found: Place, per: float, digits: int) -> str:
    return f"{words.number(found.low / per, digits)}–{words.number(found.high / per, digits)}"


def seconds(arm: ArmFinding) -> str:
    """Modelled time to target, or why there is none."""
    if arm.seconds is None:
        return words.NO_VALUE
    return words.number(arm.seconds)


def cell(value: str | float | int | None) -> str:
    """Words and counts as they are, other numbers rounded."""
    return str(value) if isinstance(value, str | int) else words.number(value)


def section_columns(table: Table) -> list[str]:
    """Its column names as they are read: words, which break over lines; names of the study's own stay as they are."""
    return [name if name in table.names else name.replace("_", " ") for name in table.columns]


def section_rows(table: Table) -> list[list[str]]:
    """A section's table as it is read: words and counts as they are, other numbers rounded."""
    return [[cell(value) for value in row] for row in table.rows]


def ranges(values: Sequence[int]) -> str:
    """Ascending integers with runs shortened: 0, 1, 4–9."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)
