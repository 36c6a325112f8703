"""LR-scaling rules: what the peak LR becomes when the total batch size grows by k = TBS / base batch size (P12)."""

import math
from collections.abc import Callable
from typing import Any, cast

from harness.plan.errors import UserError
from harness.plan.imports import import_named

Rule = Callable[[float], float]  # batch ratio k > 0 -> factor on the base LR

RULES: dict[str, Rule] = {
    "none": lambda k: 1.0,
    "sqrt": math.sqrt,  # constant update variance: Krizhevsky 2014 (1404.5997), p. 5; Adam: Malladi 2022 (2205.10287)
    "linear": lambda k: k,  # Goyal et al. 2017 (1706.02677), section 2.1
    "adascale": lambda k: 1.0,  # the base LR, times a gain in [1, k] that training measures (2007.05105)
}


def lr_factor(rule: str, batch_ratio: float, power: float | None = None) -> float:
    """Factor on the base LR; `rule="power"` uses k**power, a dotted path names an importable function of k.

    Raises UserError for an unknown rule or a ratio <= 0.
    """
    check_ratio(batch_ratio)
    if rule == "power":
        if power is None or not math.isfinite(power):
            raise UserError(f"lr_scaling rule 'power' needs lr_scaling.power, the exponent p of k**p, not {power}")
        return batch_ratio**power
    if "." in rule:
        return _imported(rule)(batch_ratio)
    if rule not in RULES:
        raise UserError(f"unknown lr_scaling rule {rule!r}: use one of {', '.join([*RULES, 'power'])}")
    return RULES[rule](batch_ratio)


def _imported(path: str) -> Rule:
    """The user's own rule, e.g. `mine.logarithmic`."""
    module, _, name = path.rpartition(".")
    try:
        rule: Any = getattr(import_named(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"lr_scaling rule {path!r} cannot be imported: {error}") from error
    if not callable(rule):
        raise UserError(f"lr_scaling rule {path!r} is no function of k")
    return cast(Rule, rule)


def check_ratio(batch_ratio: float) -> None:
    """Raises UserError unless k is a number > 0."""
    if not (math.isfinite(batch_ratio) and batch_ratio > 0):
        raise UserError(f"batch ratio k = TBS / base batch size must be > 0, not {batch_ratio}")
