"""Files that are complete or absent, and appended lines that tolerate a torn end."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.plan.errors import UserError


def plain(value: Any) -> Any:
    """A JSON-serialisable copy in which a non-finite number is null: a missing value never becomes a number."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def write_whole(path: Path, text: str) -> None:
    """Write by temporary name, fsync and rename: a reader sees the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    write_whole(path, json.dumps(plain(value), indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The parsed file, or None if it is absent or incomplete."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    except PermissionError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error


def json_line(value: Mapping[str, Any]) -> str:
    return json.dumps(plain(value), separators=(",", ":"), allow_nan=False) + "\n"


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The complete lines of a JSON-lines file; a torn last line (or any line that does not parse) is skipped."""
    try:
        file = open(path, encoding="utf-8", errors="replace")  # noqa: SIM115
    except (FileNotFoundError, NotADirectoryError):
        return
    except PermissionError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    with file:
        lines = file.read().split("\n")[:-1]  # without a torn end
    yield from (value for value in _parsed(lines) if isinstance(value, dict))


def _parsed(lines: list[str]) -> list[Any]:
    """Every line that parses, in one call if they all do, which takes a third of the time."""
    try:
        values = json.loads(f"[{','.join(lines)}]")
        if len(values) == len(lines):  # no line had two values
            return values
    except json.JSONDecodeError:
        pass
    values = []
    for line in lines:
        with suppress(json.JSONDecodeError):
            values.append(json.loads(line))
    return values


def append_lines(path: Path, values: list[dict[str, Any]]) -> None:
    """Append complete lines durably; a torn end left by a killed writer is first ended with a newline."""
    with open(path, "ab") as file:
        if file.tell() and not _ends_with_newline(path):
            file.write(b"\n")
        file.write("".join(map(json_line, values)).encode())
        file.flush()
        os.fsync(file.fileno())


def _ends_with_newline(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
