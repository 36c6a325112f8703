"""The file `limit` of a trial that races: how its driver stops it, on any node, once it can no longer win.

It holds a number of examples: from there on the trial stops at its next evaluation that misses the target. See
plan.racing.
"""

import math
import os
from pathlib import Path

from harness.record.files import open_in_place

NAME = "limit"


def write_limit(folder: Path, examples: float) -> None:
    """Set the limit of the trial in `folder`; infinity means no limit yet."""
    folder.mkdir(parents=True, exist_ok=True)
    # The same file, written in place, for the reason given in record.drain_flag.
    file = open_in_place(folder / NAME)
    try:
        os.pwrite(file, b"%24r\n" % float(examples), 0)
    finally:
        os.close(file)


def read_limit(file: Path) -> float:
    """Examples from which on a trial must stop; infinity if the file cannot be read at the moment."""
    try:
        return float(file.read_text())
    except (OSError, ValueError):
        return math.inf
