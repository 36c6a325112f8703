"""A table in a text file: encoding, delimiter, comments and index column as spreadsheets and loggers write them.

What is ambiguous or damaged is rejected in one line; numbers are brought to one notation (number_notation).
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from harness.plan.errors import UserError
from harness.published.number_notation import decimal_mark, plain_numbers
from harness.published.replicates import Row

DELIMITERS = (",", ";", "\t", "|")
# By their first bytes: files that are no text.
BINARY = {
    b"PK\x03\x04": "an Excel workbook or another archive",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"\x1f\x8b": "compressed",
    b"PAR1": "a Parquet file",
    b"SQLite": "a database",
    b"%PDF": "a PDF",
}
BOMS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32"}
BOMS |= {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
INDEX_NAMES = ("", "unnamed: 0", "index")  # as pandas leaves them


def read_table(path: Path) -> tuple[list[str], list[Row]]:
    """Header and rows, without comments, blank rows and an index column; UserError for what is no table."""
    lines, comments = _lines(read_text(path))
    if not lines:
        raise UserError(f"{path.name} has no rows")
    delimiter = _delimiter([text for _, text in lines[:50]])
    try:
        cells = [
            (number, [cell.strip() for cell in row])
            for number, row in _numbered(lines, delimiter)
            if any(cell.strip() for cell in row)
        ]
    except csv.Error as error:
        raise UserError(f"{path} cannot be read as a table: {error}") from error
    header, rows = _header(path.name, cells, comments, delimiter)
    if not rows and len(header) == 1:
        raise UserError(f"{path} cannot be read as a CSV table: it is one cell")
    if not rows:
        raise UserError(f"{path.name} has no rows")
    _check_widths(path.name, len(header), rows)
    columns = {
        name: [row[i] if i < len(row) else "" for _, row in rows] for name, i in _columns(path.name, header, rows)
    }
    marks = {mark for values in columns.values() if (mark := decimal_mark(values))}
    default = marks.pop() if len(marks) == 1 else None
    written = {name: plain_numbers(values, default) for name, values in columns.items()}
    records = zip(*written.values(), strict=True)
    table = [
        Row(number, path.name, dict(zip(written, record, strict=True)))
        for (number, _), record in zip(rows, records, strict=True)
    ]
    return list(written), table


def read_text(path: Path) -> str:
    """The file's text, in UTF-8, or in UTF-16 or UTF-32 with or without a byte order mark."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    for start, what in BINARY.items():
        if content.startswith(start):
            raise UserError(f"{path.name} is {what}, not a text table: save it as CSV (UTF-8)")
    encoding = next((name for bom, name in BOMS.items() if content.startswith(bom)), None)
    if encoding is None and content[:200].count(0) > len(content[:200]) / 4:  # ASCII in UTF-16: every second byte
        encoding = "utf-16-le" if content[1:2] == b"\0" else "utf-16-be"
    try:
        text = content.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} cannot be read as a CSV table: it is not text in {encoding or 'UTF-8'}; save it as UTF-8"
        ) from error
    if "\0" in text:
        raise UserError(f"{path} cannot be read as a CSV table: it has zero bytes; save it as UTF-8 text")
    return text


def _lines(text: str) -> tuple[list[tuple[int, str]], list[str]]:
    """Numbered lines with their ends, and the comments before them (`# ...`; a column may be called `#`)."""
    kept: list[tuple[int, str]] = []
    comments: list[str] = []
    for number, line in enumerate(io.StringIO(text, newline=""), 1):
        is_column = re.match(r"#\s*[,;\t|]", line)
        if line.lstrip().startswith("#") and not (is_column and not kept):
            comments += [] if kept else [line.lstrip(" \t#").rstrip("\r\n")]
        elif (line.strip() or kept) and not re.fullmatch(r"sep=.\s*", line):  # Excel's own first line
            kept.append((number, line))
    return kept, comments


def _delimiter(lines: Sequence[str]) -> str:
    """The one that gives the header most columns, of those that the rows agree with."""

    def columns(delimiter: str) -> tuple[bool, int]:
        widths = [len(row) for row in csv.reader(lines, delimiter=delimiter) if any(cell.strip() for cell in row)]
        return len(set(widths)) == 1 and widths[0] > 1, widths[0] if widths else 0

    return max(DELIMITERS, key=lambda delimiter: (*columns(delimiter), -DELIMITERS.index(delimiter)))


def _numbered(lines: Sequence[tuple[int, str]], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader((text for _, text in lines), delimiter=delimiter)
    for row in reader:
        yield lines[reader.line_num - 1][0], row


def _header(
    source: str, cells: Sequence[tuple[int, list[str]]], comments: Sequence[str], delimiter: str
) -> tuple[list[str], Sequence[tuple[int, list[str]]]]:
    """The names of the columns, and the rows below them."""
    first = cells[0][1]
    if not all(_is_number(cell) for cell in first if cell):
        return first, cells[1:]
    commented = next(csv.reader(comments[-1:], delimiter=delimiter), [])
    if len(commented) == len(first) and not any(_is_number(name) for name in commented):
        return [name.strip() for name in commented], cells  # numpy.savetxt writes `# tbs,seed`
    raise UserError(f"{source} has no header: its first row, line {cells[0][0]}, has numbers instead of column names")


def _check_widths(source: str, width: int, rows: Sequence[tuple[int, list[str]]]) -> None:
    for number, row in rows:
        if len(row) < width or any(row[width:]):
            raise UserError(
                f"{source}, line {number}: {len(row)} cells, but the header has {width}: complete or remove the row"
            )


def _columns(source: str, header: Sequence[str], rows: Sequence[tuple[int, list[str]]]) -> list[tuple[str, int]]:
    """Every column that says something, as (name, position): unnamed ones are `column 3`, an index is left out."""
    kept: dict[str, int] = {}
    for i, name in enumerate(header):
        values = [row[i] for _, row in rows]
        is_index = i == 0 and name.lower() in INDEX_NAMES and len(header) > 1 and _numbers_rows(values)
        if is_index or not (name or any(values)):
            continue
        title = name or f"column {i + 1}"
        if title in kept and values != [row[kept[title]] for _, row in rows]:
            raise UserError(f"{source} has two columns named {title!r}: rename or remove one")
        kept.setdefault(title, i)
    return list(kept.items())


def _numbers_rows(values: Sequence[str]) -> bool:
    """Whether they only number the rows: every one another integer, in order."""
    if not all(value.isdecimal() for value in values):
        return False
    numbers = [int(value) for value in values]
    return all(b > a for a, b in pairwise(numbers))


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True
