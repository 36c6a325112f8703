"""Preparation of data on disk: once per node, under a file lock, complete or absent."""

import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.plan.errors import UserError


def prepare_once(folder: Path, name: str, build: Callable[[Path], None]) -> Path:
    """`folder/name`, made by `build(empty folder)` if it does not exist yet; other processes wait for the first.

    The folder appears by rename after `build` has returned and its files are on disk, so it is always complete. What a
    failed or killed `build` left is never reused. `name` must change with everything the content depends on.
    """
    done = folder / name
    if done.is_dir():
        return done
    with _locked(folder, name):
        if not done.is_dir():
            partial = folder / f".{name}.partial"
            shutil.rmtree(partial, ignore_errors=True)  # left by a killed process, whose lock died with it
            partial.mkdir()
            try:
                build(partial)
                for path in [*partial.rglob("*"), partial]:
                    _flush_to_disk(path)
                partial.rename(done)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return done


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
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"waiting for another process to prepare {name}", file=sys.stderr, flush=True)
                fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise UserError(
                f"the file system of {folder} has no file locks ({error.strerror}): set dataset.root to a local disk"
            ) from error
        yield


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
