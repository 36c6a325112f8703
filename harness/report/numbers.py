"""How numbers are written, the same in every renderer."""

import math
from collections.abc import Sequence

from harness.analyse.arms import ArmFinding, Place
from harness.analyse.sections import Table


def number(value: float | None, digits: int = 3) -> str:
    """Up to `digits` significant digits without an exponent; infinity and unknown have their own signs."""
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def tick(value: float) -> str:
    """A number on an axis, where there is room for seven characters: from a million on in M, G and T."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(value) >= size:
            return f"{number(value / size)}{letter}"
    return number(value)


def place(found: Place, per: float, digits: int = 3) -> str:
    """The median in units of `per` examples, or "> x" where stopped trials hide it."""
    if math.isinf(found.examples):
        return f"> {number(found.at_least / per, digits)}" if math.isfinite(found.at_least) else "∞"
    return number(found.examples / per, digits)


def span(found: Place, per: float, digits: int = 3) -> str:
    """The interval's ends in units of `per` examples."""
    return f"{number(found.low / per, digits)}–{number(found.high / per, digits)}"


def seconds(arm: ArmFinding) -> str:
    """Modelled time to target, or why there is none."""
    if arm.seconds is None:
        return "-"
    return number(arm.seconds) if math.isfinite(arm.seconds) else "∞"


def cell(value: str | float | int | None) -> str:
    """Words and counts as they are, other numbers rounded."""
    return str(value) if isinstance(value, str | int) else number(value)


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
