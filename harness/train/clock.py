"""Three clocks: training, evaluation, total (P8). Read only after waiting for the device."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch


@dataclass
class Clock:
    """Accumulates seconds; `now` and `wait` (for the device) are injected so that tests need no sleeping."""

    now: Callable[[], float] = time.perf_counter
    wait: Callable[[], None] = lambda: None
    train_s: float = 0.0
    evaluate_s: float = 0.0
    total_s: float = 0.0
    _section: str | None = None
    _since: float = field(default=0.0)
    _started: float = field(default=0.0)

    def __post_init__(self) -> None:
        self._started = self.now()

    def enter(self, section: str | None) -> None:
        """Close the running section and open `train`, `evaluate` or neither (None), waiting for the device first."""
        self.wait()
        now = self.now()
        if self._section == "train":
            self.train_s += now - self._since
        elif self._section == "evaluate":
            self.evaluate_s += now - self._since
        self.total_s += now - self._started
        self._started = self._since = now
        self._section = section

    def state(self) -> dict[str, float]:
        return {"train_s": self.train_s, "evaluate_s": self.evaluate_s, "total_s": self.total_s}

    def restore(self, state: dict[str, float]) -> None:
        self.train_s, self.evaluate_s, self.total_s = state["train_s"], state["evaluate_s"], state["total_s"]


def device_wait(device: torch.device) -> Callable[[], None]:
    """A function that blocks until the device has finished its queued work; it does nothing on the CPU."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None
