"""Signals in the driver: the first saves and stops every trial, a second Ctrl-C stops at once.

SIGINT comes from a person, SIGTERM and SIGUSR1 from a scheduler that is about to take the machine away. Signal only the
driver: it reaches trials on every node through the study's drain flag (record.drain_flag).
"""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from types import FrameType
from typing import Any

from harness.plan.exit_codes import ExitCode
from harness.record.drain_flag import NAME, DrainFlag

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupted(KeyboardInterrupt):
    """A signal arrived while no trial was running, so there is nothing to wait for."""


class Drain:
    """The signals that the driver has received. Listens inside its `with` block; main thread only."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None  # the first one
        self._flag: DrainFlag | None = None
        self._grace_s = 0.0
        self._deadline = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Drain":
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        self.listen()
        return self

    def __exit__(self, *raised: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def listen(self) -> None:
        """Install the handlers, again after Ray and Tune have installed their own when they start."""
        for number in SIGNALS:
            signal.signal(number, self._on_signal)

    @contextmanager
    def of_study(self, study: Path, attempt: int, grace_s: float) -> Iterator[None]:
        """The block in which trials run: a first signal waits for them, for at most `grace_s`."""
        self._grace_s = grace_s
        self._flag = DrainFlag(study / NAME, attempt)
        try:
            yield
        finally:
            flag, self._flag = self._flag, None
            flag.close()

    @property
    def requested(self) -> bool:
        return self.signal is not None

    @property
    def expired(self) -> bool:
        """Whether the time for running trials to stop is over."""
        return self.requested and time.monotonic() >= self._deadline

    @property
    def exit_code(self) -> ExitCode:
        return ExitCode.INTERRUPTED if self.signal == signal.SIGINT else ExitCode.PREEMPTED

    @property
    def notice(self) -> str:
        """A line for the person who sees the driver run on for a moment."""
        assert self.signal is not None
        return f"{self.signal.name}: saving and stopping every trial at its next update (Ctrl-C again stops at once)"

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # Runs between any two steps of the driver: it sets fields and makes one write, and never prints.
        if self.requested:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return  # schedulers send the signal several times
        self.signal = signal.Signals(number)
        if self._flag is None:
            raise Interrupted
        self._deadline = time.monotonic() + self._grace_s
        self._flag.raise_()


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Processes started in this block never receive the driver's signals, which a terminal sends to all processes."""
    resource_tracker.ensure_running()  # otherwise it starts with the first process and unblocks the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
