"""The target and when it is reached: one definition, online in the trainer and offline in the analysis (P14)."""

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from harness.plan.errors import UserError
from harness.plan.metrics import METRICS

# Direction in which a metric improves, by its name or the last word of it (`validation_accuracy` -> accuracy). Those
# that the harness does not measure itself come from imported runs.
DIRECTIONS = {name: kind.mode for name, kind in METRICS.items()} | {"top5_accuracy": "max", "f1": "max", "error": "min"}
# Metrics that are shares of 1 or percents; no share is above 1, and no percentage worth aiming at is below 1.5.
SHARE, PERCENT_FROM = re.compile(r"acc|top_?[15]|f1|(^|[_/ ])(error|err|auc)"), 1.5
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


class CrossingPlace(NamedTuple):
    """Indices into the list of evaluations; None where it did not happen."""

    first_touch: int | None
    crossed: int | None  # first of the `confirm` consecutive evaluations that hold
    confirmed: int | None  # last of them: where a trial may stop


@dataclass(frozen=True)
class Target:
    """`metric` reaches `value` in direction `mode` on `confirm` consecutive evaluations of the validation split."""

    metric: str
    value: float
    mode: str
    confirm: int = 2

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max"):
            raise UserError(f"target mode must be min or max, not {self.mode!r}")
        direction = direction_of(self.metric)
        if direction and direction != self.mode:
            raise UserError(f"target metric {self.metric} needs mode={direction}, not mode={self.mode}")
        if not math.isfinite(self.value):
            raise UserError(f"target value must be finite, not {self.value}")
        if self.confirm < 1:
            raise UserError(f"target confirm, a number of evaluations, must be >= 1, not {self.confirm}")

    @staticmethod
    def parse(text: str) -> "Target":
        """From `accuracy>=0.97` or `loss<=0.1`, with the default confirmation; UserError for anything else."""
        match = re.fullmatch(rf"\s*([^<>=]*[^<>=\s])\s*(>=|<=)\s*({NUMBER})\s*", text)
        if match is None:
            raise UserError(f"a target must be METRIC>=VALUE or METRIC<=VALUE, e.g. accuracy>=0.97, not {text!r}")
        metric, sign, value = match.groups()
        return Target(metric, float(value), "max" if sign == ">=" else "min")

    def check_scale(self, metrics: Collection[float], source: str) -> None:
        """UserError if a share is compared with percent, by the metric's name: 0.9 with 93.1, or 90 with 0.931."""
        finite = [metric for metric in metrics if math.isfinite(metric)]
        if not finite or not SHARE.search(self.metric.lower()):
            return
        largest, goal = max(finite), self.value
        if (largest > PERCENT_FROM and 0 < goal <= 1) or (largest <= 1 < PERCENT_FROM <= goal):
            scale = "a share of 1" if largest <= 1 else "in percent"
            raise UserError(
                f"{source}: {self.metric} is {scale} (at most {largest:g}) and the target {goal:g} is not: give the "
                f"target as {goal / 100 if largest <= 1 else 100 * goal:g}"
            )

    def reached(self, metric: float | None) -> bool:
        """Whether one evaluation meets the target; a missing or non-finite metric never does."""
        if metric is None or not math.isfinite(metric):
            return False
        return metric >= self.value if self.mode == "max" else metric <= self.value

    def crossing(self, metrics: Sequence[float | None]) -> CrossingPlace:
        """Where a sequence of evaluations touches and crosses the target."""
        return self.crossing_of([self.reached(metric) for metric in metrics])

    def crossing_of(self, hits: Sequence[bool]) -> CrossingPlace:
        """The same, given which evaluations meet the target."""
        first = next((i for i, hit in enumerate(hits) if hit), None)
        run = 0
        for i, hit in enumerate(hits):
            run = run + 1 if hit else 0
            if run == self.confirm:
                return CrossingPlace(first, i - self.confirm + 1, i)
        return CrossingPlace(first, None, None)

    @property
    def sign(self) -> str:
        return ">=" if self.mode == "max" else "<="

    def __str__(self) -> str:
        return f"{self.metric} {self.sign} {self.value:g}, confirmed by {self.confirm}"


def direction_of(metric: str) -> str | None:
    """max or min, by a metric's name; None where the name tells neither."""
    return DIRECTIONS.get(metric) or DIRECTIONS.get(metric.rsplit("_", 1)[-1])


def check_possible(key: str, target: Target, low: float, high: float) -> None:
    """UserError for a value that no evaluation of a metric from `low` to `high` can have; `key`: the target's name."""
    if low <= target.value <= high:
        return
    ends = f"{f'>= {low:g}' * (low > -math.inf)}{f'<= {high:g}' * (high < math.inf)}"
    scale = f"between {low:g} and {high:g}" if math.isfinite(low + high) else ends
    share = f": use {target.value / 100:g}" if (low, high) == (0, 1) and 1 < target.value <= 100 else ""
    raise UserError(f"{key}.value {target.value:g} is impossible: {target.metric} is always {scale}{share}")


def metric_to_compare(name: str | None, target: Target, measured: Collection[str]) -> Target:
    """The metric whose final values an experiment compares, as a Target for its direction; null: the target's own."""
    if name is None or name == target.metric:
        return target
    if name not in measured:
        raise UserError(
            f"question.metric must be null or one of {', '.join(measured)} (workload.metrics adds others), not {name!r}"
        )
    mode = direction_of(name)
    if mode is None:
        raise UserError(f"question.metric {name!r} has no known direction: choose one of {', '.join(METRICS)}")
    return replace(target, metric=name, mode=mode)
