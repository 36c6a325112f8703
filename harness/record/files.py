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
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn
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


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` once the block has written it: a reader sees the old file or the new one,
    never a part. A link at `path` is replaced and never followed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open_new(temporary) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def open_new(path: Path) -> BinaryIO:
    """A new file for writing; whatever has its name, e.g. a link, is removed first."""
    path.unlink(missing_ok=True)
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), "wb")


def open_in_place(path: Path, flags: int = 0) -> int:
    """A descriptor for writing into the file at `path`, which is created if necessary; `flags`: of os.open.

    UserError for a link. A file that has another name too, perhaps outside the study, is replaced by a copy first.
    """
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o644)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise UserError(f"{path} is a link, and a study's files are written in their own place: remove it") from error
    if os.fstat(file).st_nlink < 2:
        return file
    os.close(file)
    with replacing(path) as copy:
        copy.write(path.read_bytes())
    return open_in_place(path, flags)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write by temporary name, fsync and rename, see `replacing`; text in UTF-8."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def make_folder(path: Path) -> Path:
    """Create a folder; UserError if there is a link, which could lead anywhere, or a file."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise UserError(f"{path} is {'a link' if path.is_symlink() else 'not a directory'}: remove it")
    path.mkdir(parents=True, exist_ok=True)
    return path


def refuse_links(folder: Path) -> None:
    """UserError if anything in a folder is a link to a place outside it: neither read nor written there (P29).

    What wandb has in the folders of its own runs, where it links to its logs, is its own.
    """
    inside = os.path.realpath(folder)
    folders, runs = [inside], os.path.join(inside, "wandb", "")
    while folders:
        where = folders.pop()
        if where.startswith(runs):
            continue
        try:
            entries = list(os.scandir(where))
        except OSError:  # it is gone, or not ours to read: whoever needs it finds out
            continue
        for entry in entries:
            if not entry.is_symlink():
                folders += [entry.path] if entry.is_dir(follow_symlinks=False) else []
            elif not os.path.realpath(entry.path).startswith(f"{inside}{os.sep}"):
                name = os.path.relpath(entry.path, inside)
                raise UserError(
                    f"{name} in {folder} is a link that leads out of the study, and such links are not followed: "
                    "replace it by what it points to, or remove it"
                )


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
    with open(open_in_place(path, os.O_APPEND), "ab") as file:
        if file.tell() and not _ends_with_newline(path):
            file.write(b"\n")
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def _ends_with_newline(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
