"""Schedules: update number -> factor on the peak LR. Update t (counted from 0) uses factor(t) (rule 4).

A schedule is any class whose instances answer `lr_factor(step)`. In conf its durations carry units; they arrive here
as whole updates, and a parameter named `horizon` (also in updates) defaults to the trial's budget.
"""

from typing import Protocol

from harness.plan.errors import UserError


class Schedule(Protocol):
    """What the trainer asks of a schedule."""

    def lr_factor(self, step: int) -> float:
        """Factor on the peak LR for update `step`, the number of updates made before it."""
        ...


class Constant:
    """Linear warm-up from peak/warmup to peak, then constant: horizon-free (Goyal 2017's ramp, rule 13's protocol)."""

    def __init__(self, warmup: int = 0) -> None:
        if warmup < 0:
            raise UserError(f"schedule.warmup must be >= 0 updates, not {warmup}")
        self.warmup = warmup

    def lr_factor(self, step: int) -> float:
        return min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
