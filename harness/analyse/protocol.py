"""The schedule and the weights that decide, in words: every headline names them (P13)."""

from collections.abc import Mapping
from typing import Any

from harness.plan.counted import count
from harness.plan.design import Design


def protocol(design: Design) -> str:
    """E.g. `Constant LR after a warm-up of 1024 examples, raw weights`."""
    schedule, averaging = design.workload.schedule, design.workload.averaging
    name = str(schedule["_target_"]).rpartition(".")[2]
    shape = f"{schedule['decay_shape'].capitalize()} decay of the" if "decay_shape" in schedule else name
    warmup = schedule.get("warmup")
    start = f" after a warm-up of {_duration(warmup)}" if isinstance(warmup, Mapping) and any(warmup.values()) else ""
    weights = (
        f"weights averaged with a half-life of {count(averaging.half_life_examples, 'example')}"
        if averaging.decide_on == "averaged"
        else "raw weights"
    )
    return f"{shape} LR{start}, {weights}"


def is_constant(design: Design) -> bool:
    """Whether the LR stays where the warm-up leaves it."""
    return str(design.workload.schedule["_target_"]).endswith(".Constant")


def _duration(value: Mapping[str, Any]) -> str:
    return ", ".join(f"{amount:g} {unit}" for unit, amount in value.items() if amount is not None)
