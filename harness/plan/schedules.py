"""Schedules: update number -> factor on the peak LR. Update t (counted from 0) uses lr_factor(t) (P4).

A schedule is a subclass of `Schedule` that overrides `shape`; all share the warm-up before it. In conf its durations
carry units; they arrive here as whole updates, and a parameter named `horizon` (also in updates) defaults to the
trial's budget; schedules with a horizon are in harness.plan.horizons. Everything else is factors and counts of
evaluations, so only durations depend on the total batch size.
"""

import math
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.plan.errors import UserError

WARMUP_SHAPES = ("linear", "constant")
CYCLES = ("triangular", "triangular2", "exp_range")


@dataclass(kw_only=True)
class Schedule:
    """The warm-up, then `shape`, which is constant here. By default a schedule changes nothing but the LR."""

    warmup: int = 0  # updates
    warmup_shape: str = "linear"  # linear: ramp up to the peak | constant: wait at warmup_start, then jump to the peak
    warmup_start: float = 0.0  # factor where the ramp begins, before the first update; the level of a constant warm-up

    def __post_init__(self) -> None:
        check_updates("warmup", self.warmup, at_least=0)
        check_choice("warmup_shape", self.warmup_shape, WARMUP_SHAPES)
        check_number("warmup_start", self.warmup_start)
        if self.warmup and self.warmup_shape == "constant" and not self.warmup_start:
            raise UserError("schedule.warmup_start=0 with warmup_shape=constant trains at LR 0: use a value in (0, 1]")

    def lr_factor(self, step: int) -> float:
        """Factor on the peak LR for update `step`, the number of updates made before it; the last warm-up update of a
        linear ramp is the first at the peak (Goyal et al. 2017, 1706.02677, section 2.2, gradual and constant)."""
        if step >= self.warmup:
            return self.shape(step)
        share = (step + 1) / self.warmup if self.warmup_shape == "linear" else 0.0
        return mix(self.warmup_start, 1.0, share) * self.shape(self.warmup)

    def shape(self, step: int) -> float:
        """The factor without the warm-up, asked for `step` >= warmup only; `step` counts from the start of training."""
        return 1.0

    @property
    def final_lr_factor(self) -> float | None:
        """The factor from update `horizon` on, exactly; None for a schedule without a horizon, which never ends."""
        return None

    def momentum(self, step: int) -> float | None:
        """Momentum (Adam: beta1) of update `step`, in place of the optimizer's own; None keeps that."""
        return None

    def weight_decay_factor(self, step: int) -> float:
        """Factor on the optimizer's weight decay for update `step`."""
        return 1.0

    def observe(self, metric: float) -> None:
        """Receives the deciding metric after every evaluation on the validation split, the same on every rank."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep in addition to the number of updates, as JSON values."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""


@dataclass(kw_only=True)
class Constant(Schedule):
    """Warm-up, then the peak LR: horizon-free (P13's default protocol)."""


@dataclass(kw_only=True)
class Step(Schedule):
    """Multiplied by `gamma` every `every` updates, counted from the start of training (torch's StepLR)."""

    every: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_updates("every", self.every, at_least=1)
        check_number("gamma", self.gamma, positive=True)

    def shape(self, step: int) -> float:
        return self.gamma ** (step // self.every)


@dataclass(kw_only=True)
class MultiStep(Schedule):
    """Times `gamma` at each milestone, counted from the start of training (Goyal et al. 2017: epochs 30, 60, 80).

    At a large TBS two milestones may become the same update: both drops then happen there.
    """

    milestones: Sequence[int]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.milestones, str) or not isinstance(self.milestones, Sequence) or not self.milestones:
            raise UserError(
                f"schedule.milestones must be a list of durations like [{{epochs: 60}}, {{epochs: 80}}], "
                f"not {self.milestones!r}"
            )
        for milestone in self.milestones:
            check_updates("milestones", milestone, at_least=1)
        if list(self.milestones) != sorted(self.milestones):
            raise UserError(f"schedule.milestones must be in ascending order, not {list(self.milestones)} updates")
        if self.milestones[0] < self.warmup:
            raise UserError(
                f"schedule.milestones begin at update {self.milestones[0]}, within the warm-up of {self.warmup} "
                "updates: use a shorter warm-up or a later milestone"
            )
        check_number("gamma", self.gamma, positive=True)

    def shape(self, step: int) -> float:
        return self.gamma ** bisect_right(self.milestones, step)


@dataclass(kw_only=True)
class Exponential(Schedule):
    """Halved every `half_life` updates from the end of the warm-up on (torch's ExponentialLR, gamma = 2^(-1/half_life),
    but written as a duration, so that it decays at the same rate in examples at every TBS)."""

    half_life: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_updates("half_life", self.half_life, at_least=1)

    def shape(self, step: int) -> float:
        return 0.5 ** ((step - self.warmup) / self.half_life)


@dataclass(kw_only=True)
class Plateau(Schedule):
    """Multiplied by `gamma` once the validation metric has not improved for more than `patience` evaluations in a row.

    Evaluations are on a grid in examples (P6), so patience means the same at every TBS. Differs from torch's
    ReduceLROnPlateau only in that `min_delta` is absolute and there is no cool-down.
    """

    mode: str  # min | max: the direction in which the deciding metric improves
    gamma: float = 0.1
    patience: int = 10  # evaluations
    min_delta: float = 0.0  # an improvement must exceed this, in the metric's own unit
    floor: float = 0.0  # the factor never falls below
    _factor: float = field(default=1.0, init=False)
    _best: float | None = field(default=None, init=False)
    _waited: int = field(default=0, init=False)  # evaluations since the best

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("mode", self.mode, ("min", "max"))
        check_number("gamma", self.gamma, positive=True)
        check_number("floor", self.floor)
        if isinstance(self.patience, bool) or not isinstance(self.patience, int) or self.patience < 0:
            raise UserError(f"schedule.patience (evaluations) must be an integer >= 0, not {self.patience!r}")
        check_number("min_delta", self.min_delta, at_most=math.inf)

    def shape(self, step: int) -> float:
        return self._factor

    def observe(self, metric: float) -> None:
        if self._improves(metric):
            self._best, self._waited = metric, 0
            return
        self._waited += 1
        if self._waited > self.patience:
            self._factor, self._waited = max(self._factor * self.gamma, self.floor), 0

    def _improves(self, metric: float) -> bool:
        if not math.isfinite(metric):
            return False
        if self._best is None:
            return True
        gain = metric - self._best if self.mode == "max" else self._best - metric
        return gain > self.min_delta

    def state(self) -> dict[str, Any]:
        return {"factor": self._factor, "best": self._best, "waited": self._waited}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._factor, self._best, self._waited = state["factor"], state["best"], state["waited"]


@dataclass(kw_only=True)
class Cyclical(Schedule):
    """CLR: from `floor` to the peak and back, repeatedly (Smith 2015, 1506.01186; torch's CyclicLR).

    The height of a cycle stays the same (triangular), halves with every cycle (triangular2), or halves every
    `half_life` updates (exp_range; torch's gamma = 2^(-1/half_life), as a duration).
    """

    half_cycle: int  # updates up, and as many down: Smith's step size
    floor: float = 0.1
    mode: str = "triangular"
    half_life: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_updates("half_cycle", self.half_cycle, at_least=1)
        check_number("floor", self.floor)
        check_choice("mode", self.mode, CYCLES)
        if self.mode == "exp_range":
            check_updates("half_life", self.half_life, at_least=1)
        elif self.half_life is not None:
            raise UserError(f"schedule.half_life applies to mode=exp_range only: remove it for mode={self.mode}")

    def shape(self, step: int) -> float:
        cycle, position = divmod(step - self.warmup, 2 * self.half_cycle)
        height = 1 - abs(position / self.half_cycle - 1)
        if self.mode == "triangular2":
            height *= 0.5**cycle
        elif self.half_life is not None:
            height *= 0.5 ** ((step - self.warmup) / self.half_life)
        return mix(self.floor, 1.0, height)


def mix(a: float, b: float, share: float) -> float:
    """a at share 0, b at share 1, both exactly; linear between."""
    return a * (1 - share) + b * share


def check_updates(name: str, value: object, *, at_least: int) -> None:
    """Raises UserError unless `value` is a whole number of updates."""
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise UserError(
            f"schedule.{name} must be a duration of {at_least} or more updates, not {value!r}: "
            "write it with one unit, like {epochs: 5}, {examples: 1024}, {steps: 100} or {fraction: 0.3}"
        )


def check_number(name: str, value: object, *, at_most: float = 1.0, positive: bool = False) -> None:
    """Raises UserError unless `value` is a finite number in [0, at_most], and above 0 where it must be `positive`."""
    if isinstance(value, int | float) and 0 <= value <= at_most and math.isfinite(value) and (value or not positive):
        return
    upper = f" and <= {at_most:g}" if math.isfinite(at_most) else ""
    raise UserError(f"schedule.{name} must be a number {'>' if positive else '>='} 0{upper}, not {value!r}")


def check_choice(name: str, value: object, allowed: Collection[str]) -> None:
    """Raises UserError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise UserError(f"unknown schedule.{name} {value!r}: choose one of {', '.join(allowed)}")
