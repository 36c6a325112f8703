"""Temporary folders of a process that may be killed: whoever makes the next one removes what it left behind."""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

OWNER = "host"  # file in a scratch folder that names its owner's machine; the folder's name has the owner's pid


def make_scratch(prefix: str, owner: int | None = None) -> Path:
    """A private folder in the temporary folder for the process `owner` (default: this one), after removing those of the
    same prefix whose owners are gone. Its path is short, because those of sockets below it have a limit."""
    clear_scratch(prefix)
    folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{owner or os.getpid()}-"))
    (folder / OWNER).write_text(socket.gethostname())
    return folder


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """`make_scratch` for the duration of the block."""
    folder = make_scratch(prefix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def clear_scratch(prefix: str) -> None:
    """Remove the scratch folders of killed processes of this user on this machine."""
    for file in Path(tempfile.gettempdir()).glob(f"{prefix}*/{OWNER}"):
        pid = file.parent.name.removeprefix(prefix).partition("-")[0]
        with suppress(OSError):
            is_ours = file.lstat().st_uid == os.getuid() and file.read_text() == socket.gethostname()
            if is_ours and pid.isdigit() and not psutil.pid_exists(int(pid)):
                shutil.rmtree(file.parent, ignore_errors=True)
