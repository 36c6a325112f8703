"""The file `drain` of a study: how a driver asks trials on any node to stop at their next update.

It holds the number of a study attempt; trials of that attempt and of earlier ones stop. Each driver begins by writing
the number before its own, so that trials left running by an abandoned driver stop as well.
"""

import os
from pathlib import Path

from harness.record.files import open_in_place

NAME = "drain"


class DrainFlag:
    """Lowered when constructed; `raise_` is one write and may be called in a signal handler."""

    def __init__(self, path: Path, attempt: int) -> None:
        self._attempt = attempt
        # Always the same file, written in place: network file systems guarantee that a reader who opens it gets the
        # newest content, while a new file may stay invisible for as long as they cache a directory.
        self._file = open_in_place(path)
        self._write(attempt - 1)

    def raise_(self) -> None:
        self._write(self._attempt)

    def close(self) -> None:
        os.close(self._file)

    def _write(self, attempt: int) -> None:
        os.pwrite(self._file, b"%12d\n" % attempt, 0)
        os.fsync(self._file)


def is_draining(path: Path, attempt: int) -> bool:
    """Whether trials of `attempt` must stop; False if the file cannot be read at the moment."""
    return _number(path) >= attempt


def is_current(path: Path, attempt: int) -> bool:
    """Whether `path` is the flag that the driver of `attempt` lowered; a copy of the study has an older number."""
    return _number(path) >= attempt - 1


def _number(path: Path) -> int:
    """The number in the file; -1 if it cannot be read."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return -1
