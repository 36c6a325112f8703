"""Trials whose processes cannot notice that they hang: stopped ones, and those that hang before they train."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.record.journal import newest_attempt
from harness.train.trainer import Execution

PATIENCE = 1.5  # times hang_s: a process that can ends itself first, and its log then says where it hung


@dataclass
class StallWatch:
    """Asked by the driver's loop as often as it turns; a trial lives as long as its journal grows.

    A row comes with every evaluation and every checkpoint, hence at least every `checkpoint_every_s` of progress.
    """

    study: Path
    execution: Execution
    clock: Callable[[], float] = time.monotonic
    _seen: dict[str, tuple[Any, float]] = field(default_factory=dict)  # by trial: its journal, when that last changed
    _looked: float = 0.0

    @property
    def limit_s(self) -> float:
        """Silence of a journal after which nobody believes in its trial; infinity where hangs are not looked for."""
        hang_s = self.execution.hang_s
        return PATIENCE * hang_s + self.execution.checkpoint_every_s if hang_s else float("inf")

    def begin(self, key: str) -> None:
        """A trial starts, or starts again."""
        self._seen[key] = (None, self.clock())

    def end(self, key: str) -> None:
        self._seen.pop(key, None)

    def stalled(self) -> list[str]:
        """Trials that have given no sign of life for `limit_s`; looks at their files about 20 times in that time."""
        now = self.clock()
        if now - self._looked < self.limit_s / 20:
            return []
        self._looked = now
        for key, (before, _) in self._seen.items():
            if (found := self._journal(key)) != before or found is None:
                self._seen[key] = (found, now)
        return [key for key, (_, changed) in self._seen.items() if now - changed >= self.limit_s]

    def _journal(self, key: str) -> Any:
        """What changes when a row is written; None where the folder cannot be read, which is no sign of anything."""
        folder = self.study / "trials" / key
        try:
            number = newest_attempt(folder)
            return number and (number, (folder / f"events.{number}.jsonl").stat().st_size)
        except OSError:
            return None
