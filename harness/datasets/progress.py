"""How far a long preparation has come: one line that is rewritten on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PLAIN_EVERY_S = 10.0  # between two lines of a log
REWRITE_EVERY_S = 0.2  # of a terminal's line

_listeners: list[Callable[[str], None]] = []


@contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """Every line of progress made in this process goes to `listener` as well."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def announce(line: str) -> None:
    """A line on what is being prepared, on stderr and to whoever listens."""
    print(line, file=sys.stderr, flush=True)
    _tell(line)


def _tell(line: str) -> None:
    for listener in _listeners:
        listener(line)


class Progress:
    """`what`: 512 of 1,024 `done` in 3 s."""

    def __init__(self, what: str, total: int, done: str) -> None:
        self.what = what
        self.total = total
        self.done = done
        self.count = 0
        self._began = self._shown = time.monotonic()
        self._rewrites = sys.stderr.isatty()

    def advance(self, number: int) -> None:
        """`number` more are done."""
        if not number:
            return
        self.count += number
        now, is_over = time.monotonic(), 0 < self.total <= self.count  # an unknown total is 0
        if now - self._shown < (REWRITE_EVERY_S if self._rewrites else PLAIN_EVERY_S) and not is_over:
            return
        self._shown = now
        of = f" of {self.total:,}" if self.total else ""
        line = f"{self.what}: {self.count:,}{of} {self.done} in {now - self._began:.0f} s"
        if self._rewrites:
            print(f"\r\x1b[K{line}", end="\n" if is_over else "", file=sys.stderr, flush=True)
            _tell(line)
        else:
            announce(line)
