"""Finds trials whose processes cannot notice that they hang: stopped ones, and those that hang before training."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.record.journal import newest_attempt
from harness.train.trainer import Execution

PATIENCE = 1.5  # times hang_s: a process that can end itself does so first, and its log then shows where it hung


@dataclass
class StallWatch:
    """Called at every turn of the driver's loop; a trial is alive as long as its journal grows.

    Every evaluation and every checkpoint adds a row, hence at least every `checkpoint_every_s` of progress.
    """

    study: Path
    execution: Execution
    clock: Callable[[], float] = time.monotonic
    _seen: dict[str, tuple[Any, float]] = field(default_factory=dict)  # by trial: journal state, when it last changed
    _looked: float = 0.0

    @property
    def limit_s(self) -> float:
        """How long a journal may not grow before its trial counts as stalled; infinity where hang_s is 0."""
        hang_s = self.execution.hang_s
        return PATIENCE * hang_s + self.execution.checkpoint_every_s if hang_s else float("inf")

    def begin(self, key: str) -> None:
        """A trial starts, or starts again."""
        self._seen[key] = (None, self.clock())

    def end(self, key: str) -> None:
        self._seen.pop(key, None)

    def stalled(self) -> list[str]:
        """Trials whose journals have not grown for `limit_s`; looks at the files about 20 times in that time."""
        now = self.clock()
        if now - self._looked < self.limit_s / 20:
            return []
        self._looked = now
        for key, (before, _) in self._seen.items():
            if (state := self._journal_state(key)) != before or state is None:
                self._seen[key] = (state, now)
        return [key for key, (_, changed) in self._seen.items() if now - changed >= self.limit_s]

    def _journal_state(self, key: str) -> Any:
        """A value that changes when a row is written; None if the folder cannot be read, which proves nothing."""
        folder = self.study / "trials" / key
        try:
            number = newest_attempt(folder)
            return number and (number, (folder / f"events.{number}.jsonl").stat().st_size)
        except OSError:
            return None
