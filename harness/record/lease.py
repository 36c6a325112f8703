"""Who drives a study: leases that exclude each other, also between machines and after a crash."""

import errno
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from harness.plan.errors import UserError
from harness.record.accounts import is_count, is_finite
from harness.record.files import json_line, read_json, write_json
from harness.record.journal import is_file_number

HEARTBEAT_S = 2.0
STALE_S = 30.0  # a lease of another host older than this is abandoned
LATEST = 4e9  # seconds since 1970 that a clock may show


class Lease:
    """The right to drive a study: whoever creates `leases/n.json` has it until somebody creates number n + 1.

    Each driver writes its own file only, so that a heartbeat that comes late can never undo a take-over. A lease is
    taken over at once from a dead process of this host, else when its heartbeat is stale.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.folder = folder
        self.number = number
        self.taken_from: str | None = None  # the driver that seemed to be alive
        me = psutil.Process()
        self._owner = {"attempt": number, "host": socket.gethostname(), "pid": me.pid, "started": me.create_time()}
        with open(_lease_path(folder, number), "x", encoding="utf-8") as file:
            file.write(json_line({**self._owner, "heartbeat": time.time()}))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="study-lease", daemon=True)
        self._thread.start()

    @staticmethod
    def take(folder: Path, take_over: bool = False) -> "Lease":
        """Raises UserError while another driver has the study, also one that takes it at this very moment.

        `take_over` takes it from a driver on another machine even if that seems to be alive: its heartbeat may come
        from a clock that is ahead of ours.
        """
        (folder / "leases").mkdir(exist_ok=True)
        number = newest_lease(folder)
        held = read_lease(folder, number) if number else None
        if held is None or not is_alive(held) or (take_over and not _is_here(held)):
            try:
                lease = Lease(folder, number + 1)
                if held is not None and is_alive(held):
                    lease.taken_from = holder(held) + since(held)
                return lease
            except FileExistsError:
                held = read_lease(folder, number + 1)
        remedy = "" if _is_here(held) else "; if it is dead, add --take-over to the same command"
        raise UserError(
            f"study {folder.name} is being run by {holder(held)}: wait for it, end it, or choose another study name"
            f"{since(held)}{remedy}"
        )

    @property
    def lost(self) -> bool:
        return _lease_path(self.folder, self.number + 1).exists()

    def check(self) -> None:
        """Raises RuntimeError once another driver has taken the study, OSError where its folder is gone."""
        if self.lost:
            raise RuntimeError(f"study {self.folder} was taken over by another driver")
        if not _lease_path(self.folder, self.number).exists():
            raise OSError(errno.EIO, "the study is not there any more", str(self.folder))

    def release(self) -> None:
        """Give the study up, leaving the attempt number for the next driver."""
        self._stop.set()
        self._thread.join()
        with suppress(OSError):  # what cannot be written now says nothing new: the process is gone at once
            if not self.lost:
                self._write(released=True)

    def _keep(self) -> None:
        while not self._stop.wait(HEARTBEAT_S) and not self.lost:
            with suppress(OSError):  # a full disk or a folder gone for a while: the next beat may succeed
                self._write()

    def _write(self, **more: Any) -> None:
        write_json(_lease_path(self.folder, self.number), {**self._owner, "heartbeat": time.time(), **more})


def newest_lease(folder: Path) -> int:
    """Number of a study's newest lease; 0 before the first."""
    return max((int(path.stem) for path in folder.glob("leases/*.json") if is_file_number(path.stem)), default=0)


def _lease_path(folder: Path, number: int) -> Path:
    return folder / "leases" / f"{number}.json"


def read_lease(folder: Path, number: int) -> dict[str, Any]:
    """A lease; one that is damaged, or that its taker has not finished writing, counts by the age of its file."""
    path = _lease_path(folder, number)
    held = read_json(path)
    if (
        isinstance(held, dict)
        and isinstance(held.get("host"), str)
        and is_count(held.get("attempt"))
        and is_count(held.get("pid"))
        and all(is_finite(held.get(key, 0.0)) for key in ("heartbeat", "started"))
        and ("started" in held or not _is_here(held))
        and "heartbeat" in held
    ):
        return held
    try:
        changed = path.lstat().st_mtime
    except OSError:
        changed = 0.0
    return {"attempt": number, "host": "an unknown host", "pid": "?", "heartbeat": changed}


def holder(held: Mapping[str, Any]) -> str:
    """Who holds a lease, e.g. `process 7 on node3 (heartbeat 5 s ago)`."""
    age = time.time() - held["heartbeat"]
    beat = f"heartbeat {age:.0f} s ago" if age > -1.0 else f"heartbeat {-age:.0f} s ahead of this machine's clock"
    return f"process {held['pid']} on {held['host']} ({beat})"


def since(held: Mapping[str, Any]) -> str:
    """When the process that holds a lease began, by its clock; empty where the lease does not say."""
    if not 0 < held.get("started", 0) < LATEST:
        return ""
    return f" (it began at {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime(held['started']))})"


def _is_here(held: Mapping[str, Any]) -> bool:
    return held["host"] == socket.gethostname()


def is_alive(held: Mapping[str, Any]) -> bool:
    """Whether the driver that holds a lease runs, as far as can be seen from this machine."""
    if held.get("released") is True:
        return False
    if not _is_here(held):
        return time.time() - held["heartbeat"] < STALE_S
    try:
        process = psutil.Process(held["pid"])
        return abs(process.create_time() - held["started"]) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, OverflowError, ValueError):
        return False
