"""Preparation of data on disk: once per node, under a file lock, complete or absent."""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from harness.datasets.progress import announce
from harness.plan.errors import UserError

ASK_EVERY_S = 1.0  # for a lock that another process holds
SAY_EVERY_S = 60.0  # that it is still being waited for


def prepare_once(folder: Path, name: str, build: Callable[[Path], None], parts: str | None = None) -> Path:
    """`folder/name`, made by `build(folder to fill)` if it does not exist yet; other processes wait for the first.

    The folder appears by rename after `build` has returned and its files are on disk, so it is always complete. `name`
    must change with everything the content depends on.

    What an interrupted or failed `build` left is removed, unless `parts` names it: then the next `build` of these
    `parts`, under this name or another, finds it in the folder it is given and must decide what of it to use.
    """
    done = folder / name
    if done.is_dir():
        return done
    unfinished = parts or name
    with _locked(folder, unfinished):
        if not done.is_dir():
            partial = folder / f".{unfinished}.partial"
            if parts is None:
                shutil.rmtree(partial, ignore_errors=True)  # left by a killed process, whose lock died with it
            partial.mkdir(exist_ok=parts is not None)
            try:
                build(partial)
                for path in [*partial.rglob("*"), partial]:
                    _flush_to_disk(path)
                partial.rename(done)
            finally:
                if parts is None:
                    shutil.rmtree(partial, ignore_errors=True)
                elif partial.is_dir() and not any(partial.iterdir()):
                    partial.rmdir()
    return done


def is_prepared(folder: Path, name: str) -> bool:
    """Whether `prepare_once` would find it done."""
    return (folder.expanduser() / name).is_dir()


@contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    """Hold `folder/.name.lock`. The file is kept: removing a lock file that others may wait on is a race."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / f".{name}.lock").open("w")
    except OSError as error:
        raise UserError(f"cannot write prepared data to {folder} ({error.strerror}): set dataset.root") from error
    with lock:
        try:
            _wait_for(lock, name)
        except OSError as error:
            raise UserError(
                f"the file system of {folder} has no file locks ({error.strerror}): set dataset.root to a local disk"
            ) from error
        yield


def _wait_for(lock: TextIO, name: str) -> None:
    """Take the lock, however long its holder needs: a holder that dies gives it up."""
    began, said = time.monotonic(), -SAY_EVERY_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            waited = time.monotonic() - began
            if waited - said >= SAY_EVERY_S:
                since = f" (for {waited:.0f} s)" if waited >= SAY_EVERY_S else ""
                announce(f"waiting for another process to prepare {name}{since}")
                said = waited
            time.sleep(ASK_EVERY_S)


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
