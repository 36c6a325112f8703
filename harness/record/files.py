"""Files that are complete or absent, and appended lines that tolerate a torn end and carry a checksum.

A study's files may have been damaged since they were written, or be somebody else's: whatever they hold, reading them
gives plain data, or says that the file or one of its lines is damaged.
"""

import errno
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn
from zlib import crc32

from harness.plan.errors import UserError

NO_FILE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ENODEV}


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
    """The parsed file, or None if it is absent or damaged. UserError if it may not be read."""
    content = _content(path)
    try:
        return None if content is None else parse(content)
    except ValueError:
        return None


def exists(path: Path) -> bool:
    """Whether anything is at `path`, also a link to nothing or a directory where a file belongs."""
    return os.path.lexists(path)


def parse(content: bytes) -> Any:
    """JSON in UTF-8. ValueError for anything else, however it is damaged; NaN and infinity are not JSON."""
    try:
        return json.loads(content.decode("utf-8"), parse_constant=_reject)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _reject(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _content(path: Path) -> bytes | None:
    """None where there is no file, or something else than a file; OSError where the file system fails."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not keep us waiting
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise UserError(f"{path} cannot be read ({error.strerror})") from error
        if error.errno in NO_FILE:
            return None
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def json_line(value: Mapping[str, Any]) -> str:
    return json.dumps(plain(value), separators=(",", ":"), allow_nan=False) + "\n"


def checked_line(value: Mapping[str, Any]) -> str:
    """The same with the field `crc32` added: the checksum of the line without it."""
    line = json_line(value)[:-2]
    return f'{line},"crc32":"{crc32(line.encode()):08x}"}}\n'


def read_rows(path: Path) -> list[dict[str, Any] | None]:
    """The complete lines of a JSON-lines file, without checksums; None for each damaged one. A torn end is not read.

    A line without a checksum is damaged if one before it has one: an older version wrote no checksums, and this one may
    have added lines to its file.
    """
    lines = (_content(path) or b"").split(b"\n")[:-1]
    rows = [row if isinstance(row, dict) else None for row in _parsed(lines)]
    first = next((i for i, row in enumerate(rows) if row is not None and "crc32" in row), len(rows))
    for i in range(first, len(rows)):
        row = rows[i]
        if row is None or not _is_intact(lines[i]):
            rows[i] = None
        else:
            del row["crc32"]
    return rows


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The undamaged complete lines of a JSON-lines file."""
    return (row for row in read_rows(path) if row is not None)


CHECKSUM = len(',"crc32":"01234567"}')  # bytes at the end of a line


def has_torn_end(path: Path) -> bool:
    """Whether a JSON-lines file ends within a line."""
    content = _content(path) or b"\n"
    return not content.endswith(b"\n")


def _is_intact(line: bytes) -> bool:
    """Whether a line ends with its checksum."""
    end = line[-CHECKSUM:]
    return end.startswith(b',"crc32":"') and end == b',"crc32":"%08x"}' % crc32(line[:-CHECKSUM])


def _parsed(lines: list[bytes]) -> list[Any]:
    """Every line's value, None for those that do not parse; in one call if they all do, which takes a third of the
    time."""
    try:
        values = parse(b"[%s]" % b",".join(lines))
        if len(values) == len(lines):  # no line had two values
            return values
    except ValueError:
        pass
    return [_parsed_line(line) for line in lines]


def _parsed_line(line: bytes) -> Any:
    try:
        return parse(line)
    except ValueError:
        return None


def append_lines(path: Path, values: list[dict[str, Any]]) -> None:
    """Append complete lines durably; a torn end left by a killed writer is first ended with a newline."""
    _append(path, "".join(map(json_line, values)))


def append_checked(path: Path, value: Mapping[str, Any]) -> None:
    """The same for one line with its checksum."""
    _append(path, checked_line(value))


def _append(path: Path, text: str) -> None:
    with open(path, "ab") as file:
        if file.tell() and not _ends_with_newline(path):
            file.write(b"\n")
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def _ends_with_newline(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
