"""Durations carry their unit (epochs, examples, steps, fraction) and become updates in one function (P4)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.plan.errors import UserError

UNITS = ("epochs", "examples", "steps", "fraction")


@dataclass(frozen=True)
class Duration:
    """A length of training; `fraction` is a share of the schedule's horizon."""

    amount: float
    unit: str

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise UserError(f"unknown unit {self.unit!r} of a duration: choose one of {', '.join(UNITS)}")
        if not (isinstance(self.amount, int | float) and math.isfinite(self.amount) and self.amount >= 0):
            raise UserError(f"a duration must be a number >= 0, not {self.amount!r} {self.unit}")
        if self.unit == "fraction" and self.amount > 1:
            raise UserError(f"a fraction of the horizon must be in [0, 1], not {self.amount!r}")

    @staticmethod
    def parse(value: Mapping[str, Any]) -> "Duration":
        """From `{examples: 1024}`, the way durations are written in conf; raises UserError on anything else."""
        given = {unit: amount for unit, amount in value.items() if amount is not None}
        if len(given) != 1:
            raise UserError(f"a duration needs exactly one unit out of {', '.join(UNITS)}, not {dict(value)!r}")
        ((unit, amount),) = given.items()
        return Duration(amount, str(unit))


def is_duration(value: object) -> bool:
    """Whether a conf value is a duration: a mapping whose only keys are units."""
    return isinstance(value, Mapping) and bool(value) and all(key in UNITS for key in value)


def to_steps(
    duration: Duration, *, total_batch_size: int, train_examples: int, horizon_steps: int | None = None
) -> int:
    """The smallest number of optimizer updates that lasts at least `duration`.

    `train_examples` is the size of the training set, `horizon_steps` what a fraction refers to.
    """
    if duration.unit == "steps":
        return math.ceil(duration.amount)
    if duration.unit == "fraction":
        if horizon_steps is None:
            raise UserError(f"a duration of {duration.amount} of the horizon needs a schedule with a horizon")
        return math.ceil(round(duration.amount * horizon_steps, 9))
    examples = duration.amount * train_examples if duration.unit == "epochs" else duration.amount
    return math.ceil(round(examples / total_batch_size, 9))
