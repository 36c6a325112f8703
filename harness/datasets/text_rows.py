"""Rows of texts and labels in a CSV, TSV or JSON lines file, each as text; every fault is a UserError with its line."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from harness.plan.errors import UserError

DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
JSON_LINES = (".jsonl", ".ndjson")
LONGEST_CELL = 1 << 27  # characters; csv's own limit of 131,072 is shorter than some documents
NAME_THEM = "name the columns of texts and labels by dataset.text=NAME dataset.label=NAME"


def text_rows(path: Path, text: str, label: str) -> Iterator[tuple[str, str]]:
    """The cells of the columns `text` and `label` without spaces around them, empty where a row has none."""
    suffix = path.suffix.lower()
    if suffix not in (*DELIMITERS, *JSON_LINES):
        allowed = ", ".join((*DELIMITERS, *JSON_LINES))
        raise UserError(f"{path} must end in one of {allowed}, not {suffix or 'nothing'}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = _json_rows(file, path) if suffix in JSON_LINES else _table_rows(file, path, DELIMITERS[suffix])
            for line, row in rows:
                if absent := [name for name in (text, label) if name not in row]:
                    raise UserError(f"{path}, line {line}: no {absent[0]}, but {_listed(row)}: {NAME_THEM}")
                yield _cell(row[text], path, line), _cell(row[label], path, line)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give dataset.folder=FOLDER and its name") from error


def _listed(row: Mapping[str, Any]) -> str:
    return ", ".join(list(row)[:8]) + (", ..." if len(row) > 8 else "") or "nothing"


def _cell(value: Any, path: Path, line: int) -> str:
    if isinstance(value, Mapping | list):
        raise UserError(f"{path}, line {line}: a text or a label must be text or a number, not {str(value)[:40]}")
    return "" if value is None else str(value).strip()


def _table_rows(file: TextIO, path: Path, delimiter: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    csv.field_size_limit(LONGEST_CELL)
    table = csv.reader(file, delimiter=delimiter, strict=True)
    header: Sequence[str] = []
    try:
        for row in table:
            if not row:
                continue
            if not header:
                header = [cell.strip() for cell in row]
            elif len(row) != len(header):
                raise UserError(
                    f"{path}, line {table.line_num}: {len(row)} cells, but the header has {len(header)}: put texts "
                    f"that contain {delimiter!r} in quotes"
                )
            else:
                yield table.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}, line {table.line_num}: {error}") from error


def _json_rows(file: TextIO, path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line, content in enumerate(file, 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {line}: no JSON value ({error})") from error
        if not isinstance(row, Mapping):
            raise UserError(f"{path}, line {line}: must be an object like {{...}}, not {content.strip()[:40]}")
        yield line, row
