"""What the launchers report to the driver: trials starting, their rows, their end. Terminal and trackers listen."""

from collections.abc import Sequence
from typing import Any, Protocol

from harness.launch.feed import Feed
from harness.plan.trial import PlannedTrial


class Listener(Protocol):
    """Called in the driver, in order per trial. A listener must not raise and must not block."""

    def trial_started(self, planned: PlannedTrial) -> None: ...

    def trial_rows(self, planned: PlannedTrial, rows: Sequence[dict[str, Any]]) -> None: ...

    def trial_failed(self, planned: PlannedTrial, reason: str, final: bool) -> None:
        """`reason` is the last line of the traceback; `final` means that no retry follows."""
        ...

    def trials_over(self) -> None:
        """No trial is running and none will start; the timing pass and the report may follow."""
        ...


class Watcher(Listener, Protocol):
    """A listener that can also show the state of the whole sweep."""

    def sweep_started(self, feed: Feed, slots: int) -> None: ...

    def say(self, line: str) -> None: ...


class Audience:
    """Passes every call to a watcher and to further listeners: the screen and the trackers."""

    def __init__(self, watcher: Watcher, *listeners: Listener) -> None:
        self.watcher = watcher
        self.all: tuple[Listener, ...] = (watcher, *listeners)

    def sweep_started(self, feed: Feed, slots: int) -> None:
        self.watcher.sweep_started(feed, slots)

    def say(self, line: str) -> None:
        self.watcher.say(line)

    def trial_started(self, planned: PlannedTrial) -> None:
        for listener in self.all:
            listener.trial_started(planned)

    def trial_rows(self, planned: PlannedTrial, rows: Sequence[dict[str, Any]]) -> None:
        for listener in self.all:
            listener.trial_rows(planned, rows)

    def trial_failed(self, planned: PlannedTrial, reason: str, final: bool) -> None:
        for listener in self.all:
            listener.trial_failed(planned, reason, final)

    def trials_over(self) -> None:
        for listener in self.all:
            listener.trials_over()
