"""Seconds of a whole run from its updates, with evaluation passes, start-up, checkpoints and failures as terms.

A constant share for evaluation would be wrong at scale: it is 2 % of ResNet-50's time on 8 GPUs and 13 % on 3,584.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

# One evaluation pass on n devices takes (n0 / n)^e of its time on n0: 1 would be perfect scaling. Mean and standard
# deviation over the published rows that show it (ResNet-50, 8 to 64 GPUs: 0.36; 64 to 2,528: 0.66).
EVALUATION_EXPONENT, EVALUATION_EXPONENT_SD = 0.5, 0.2


@dataclass(frozen=True)
class Overheads:
    """What a run spends besides its updates."""

    evaluation_s: float = 0.0  # one pass, on so many devices
    evaluation_devices: int = 1
    start_up_s: float = 0.0
    checkpoint_s: float = 0.0
    checkpoint_every_s: float = 3600.0
    failures_per_device_hour: float = 0.0  # each costs a restart and the work since the last checkpoint
    restart_s: float = 300.0


def evaluation_exponents(draws: int, rng: np.random.Generator) -> Array:
    return np.clip(EVALUATION_EXPONENT + EVALUATION_EXPONENT_SD * rng.standard_normal(draws), 0.0, 1.0)


def evaluation_seconds(overheads: Overheads, devices: int, exponents: Array) -> Array:
    """Of one pass on `devices`, in each draw."""
    return overheads.evaluation_s * (overheads.evaluation_devices / devices) ** exponents


def run_seconds(
    updates: Array, step_s: Array, passes: Array, devices: int, overheads: Overheads, exponents: Array
) -> Array:
    """Expected seconds from start to target, in each draw; infinite where failures eat more than all the time."""
    work = updates * step_s + passes * evaluation_seconds(overheads, devices, exponents)
    work = work * (1 + overheads.checkpoint_s / overheads.checkpoint_every_s)
    return (
        (work + overheads.start_up_s) / goodput(devices, overheads) if goodput(devices, overheads) else work * math.inf
    )


def goodput(devices: int, overheads: Overheads) -> float:
    """Share of the time that is not lost to failures: to first order, as one failure seldom meets another."""
    lost_s = overheads.restart_s + overheads.checkpoint_every_s / 2
    return max(0.0, 1 - overheads.failures_per_device_hour * devices * lost_s / 3600)
