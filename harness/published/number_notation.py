"""Numbers as tables write them: decimal comma, grouped thousands, percent. One column has one notation."""

import re
from collections.abc import Sequence
from decimal import Decimal

SIGN, EXPONENT = r"[-+]?", r"(?:[eE][-+]?\d+)?"
BLANK = "[ \u00a0\u2009\u202f'\u2019]"  # between groups of three digits
GROUPED = {
    ".": re.compile(rf"{SIGN}[1-9]\d{{0,2}}(,\d{{3}})+(\.\d*)?"),
    ",": re.compile(rf"{SIGN}[1-9]\d{{0,2}}(\.\d{{3}})+(,\d*)?"),
}
PLAIN = {
    ".": re.compile(rf"{SIGN}(\d+\.?\d*|\.\d+){EXPONENT}"),
    ",": re.compile(rf"{SIGN}(\d+,?\d*|,\d+){EXPONENT}"),
}
BY_BLANKS = re.compile(rf"{SIGN}[1-9]\d{{0,2}}({BLANK}\d{{3}})+([.,]\d*)?")


def decimal_mark(values: Sequence[str]) -> str | None:
    """The mark that a column settles: `4,5` a comma, `1,024.5` a point, `1,024` and `7` nothing."""
    settled = {mark for value in values if (mark := _mark(_without_blanks(value.removesuffix("%").strip())))}
    return settled.pop() if len(settled) == 1 else None


def plain_numbers(values: Sequence[str], default: str | None = None) -> list[str]:
    """The column with its numbers as Python writes them; `default` is the decimal mark of the rest of the table.

    `1,024` alone may be 1024 or 1.024: it stays as it is, and is rejected where it is used. Percents become shares, if
    all of the column's numbers are percents.
    """
    filled = [value for value in values if value]
    is_percent = bool(filled) and all(value.endswith("%") for value in filled)
    mark = decimal_mark(values) or default
    cells = [_without_blanks(value.removesuffix("%").strip() if is_percent else value) for value in values]
    plain = [_plain(cell, mark) for cell in cells] if mark else cells
    return [_share(cell) for cell in plain] if is_percent else plain


def _without_blanks(cell: str) -> str:
    cell = cell.replace("\u2212", "-")  # a minus sign
    return re.sub(BLANK, "", cell) if BY_BLANKS.fullmatch(cell) else cell


def _mark(cell: str) -> str | None:
    readable = [mark for mark in ".," if PLAIN[mark].fullmatch(cell) or GROUPED[mark].fullmatch(cell)]
    return readable[0] if len(readable) == 1 else None


def _plain(cell: str, mark: str) -> str:
    if GROUPED[mark].fullmatch(cell):
        cell = cell.replace("," if mark == "." else ".", "")
    return cell.replace(",", ".") if mark == "," and PLAIN[","].fullmatch(cell) else cell


def _share(cell: str) -> str:
    return str(Decimal(cell) / 100) if PLAIN["."].fullmatch(cell) else cell


def hint(text: str) -> str:
    """What to write instead of a number that cannot be read with certainty."""
    if re.fullmatch(r"\d+(\.\d+)?\s*[kKmM]i?", text):
        return " (1k may be 1,000 or 1,024: write the digits)"
    if re.fullmatch(r"\d{1,3}([.,]\d{3})+", text):
        return " (thousands or decimals? write it without the comma)"
    return " (write every number of the column in percent, or none)" if text.endswith("%") else ""
