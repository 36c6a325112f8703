"""Ends the driver when a process of its embedded Ray is gone: Ray itself would keep it waiting for a minute, or end it
without a word."""

import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from harness.plan.exit_codes import ExitCode

SERVERS = ("gcs_server", "raylet")  # without either, nothing can run and nothing can be asked
LOOK_EVERY_S = 0.5
TRACKING = "harness.record.tracking"  # in the command line of the tracking process, which ends by itself


class RayWatch:
    """Watches inside its `with` block. `say_last` gets a line and may release what the driver holds, before it ends
    with ExitCode.PREEMPTED."""

    def __init__(self, scratch: Path, say_last: Callable[[str], None]) -> None:
        self.scratch = scratch
        self.say_last = say_last
        self._over = threading.Event()
        self._servers = [
            (child.info["name"], child) for child in psutil.process_iter(["name", "ppid"]) if _is_server(child.info)
        ]
        self._thread = threading.Thread(target=self._watch, name="ray-watch", daemon=True)

    def __enter__(self) -> "RayWatch":
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            for name, server in self._servers:
                if _is_gone(server) and not self._over.is_set():
                    self._end(name)

    def _end(self, name: str) -> None:
        # In this thread and at once: the main one may be waiting in Ray for an answer that never comes.
        try:
            self.say_last(f"Ray's {name} is gone (killed, or out of memory): run the same command again to resume")
        finally:
            for process in _of_ray():
                with suppress(psutil.Error):
                    process.kill()
            shutil.rmtree(self.scratch, ignore_errors=True)
            os._exit(ExitCode.PREEMPTED)


def _is_server(process: dict[str, Any]) -> bool:
    return process["ppid"] == os.getpid() and process["name"] in SERVERS


def _is_gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _of_ray() -> list[psutil.Process]:
    """Every process below this one but for the tracking process and its children."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if TRACKING not in " ".join(child.cmdline()):
                found += [child, *child.children(recursive=True)]
    return found
