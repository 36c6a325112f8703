"""Schedules with an end: decays, warm-up-stable-decay, 1cycle and the LR range test, over a horizon in updates."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from harness.plan.errors import UserError
from harness.plan.schedules import Schedule, check_choice, check_number, check_updates, mix

# What is left of the LR above `final` after a share u in [0, 1] of a decay.
DECAYS: dict[str, Callable[[float], float]] = {
    "linear": lambda u: 1 - u,
    "cosine": lambda u: (1 + math.cos(math.pi * u)) / 2,
    "sqrt": lambda u: 1 - math.sqrt(u),  # "1-sqrt": Hägele et al. 2024 (2405.18392)
}


@dataclass(kw_only=True)
class WithHorizon(Schedule):
    """A schedule of `horizon` updates, warm-up included, which stays at `final_lr_factor` from then on.

    Decays reach it after the last update (like torch's CosineAnnealingLR and PolynomialLR), so that no update is spent
    at an LR of zero; 1cycle and the range test reach it in the last update.
    """

    horizon: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_updates("horizon", self.horizon, at_least=1)
        if self.warmup >= self.horizon:
            raise UserError(
                f"schedule.warmup of {self.warmup} updates fills the horizon of {self.horizon} updates: "
                "use a shorter warm-up or a longer horizon"
            )


@dataclass(kw_only=True)
class Decay(WithHorizon):
    """The peak LR, then over the last `decay` updates of the horizon down to `final`, reached after the last update.

    Without `decay` the fall begins at the end of the warm-up: linear-to-zero, polynomial (torch's PolynomialLR), cosine
    (SGDR without restarts: Loshchilov & Hutter 2016, 1608.03983, eq. 5). With it, this is warm-up-stable-decay
    (Hu et al. 2024, 2404.06395).
    """

    decay: int | None = None  # updates
    decay_shape: str = "linear"  # linear | cosine | sqrt
    power: float = 1.0  # of linear: (1 - share)^power, the polynomial decay
    final: float = 0.0
    _begin: int = field(init=False)  # first update of the decay, still at the peak

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("decay_shape", self.decay_shape, DECAYS)
        check_number("final", self.final)
        check_number("power", self.power, at_most=math.inf, positive=True)
        if self.power != 1 and self.decay_shape != "linear":
            raise UserError(
                f"schedule.power applies to decay_shape=linear only: remove it for decay_shape={self.decay_shape}"
            )
        if self.decay is not None:
            check_updates("decay", self.decay, at_least=1)
        self._begin = self.warmup if self.decay is None else self.horizon - self.decay
        if self._begin < self.warmup:
            raise UserError(
                f"schedule.warmup {self.warmup} + decay {self.decay} exceed the horizon of {self.horizon} updates: "
                "shorten one of them"
            )

    @property
    def final_lr_factor(self) -> float:
        return self.final

    def shape(self, step: int) -> float:
        share = min(max(0, step - self._begin) / (self.horizon - self._begin), 1.0)
        return mix(self.final, 1.0, DECAYS[self.decay_shape](share) ** self.power)


@dataclass(kw_only=True)
class OneCycle(WithHorizon):
    """1cycle (Smith 2018, 1803.09820): `start` up to the peak, back down, then annihilation to `final`, the LR of the
    last update at every TBS; momentum mirrors the cycle and stays at its maximum through the annihilation.

    The fall takes the updates that `rise` and `annihilate` leave; with annihilate=0 it goes from the peak straight to
    `final` (torch's OneCycleLR with two phases).
    """

    rise: int  # updates below the peak: the first at the peak is update warmup + rise
    annihilate: int = 0  # updates
    start: float = 0.1
    final: float = 1e-4
    anneal: str = "linear"  # linear | cosine
    max_momentum: float | None = 0.95  # null: momentum is not changed
    min_momentum: float | None = 0.85  # at the peak LR

    def __post_init__(self) -> None:
        super().__post_init__()
        check_updates("rise", self.rise, at_least=1)
        check_updates("annihilate", self.annihilate, at_least=0)
        check_number("start", self.start)
        check_number("final", self.final)
        check_choice("anneal", self.anneal, ("linear", "cosine"))
        needed = self.warmup + self.rise + max(self.annihilate, 1) + 1
        if needed > self.horizon:
            raise UserError(
                f"schedule.warmup {self.warmup} + rise {self.rise} + annihilate {self.annihilate} need a horizon of "
                f"at least {needed} updates, not {self.horizon}: shorten them or lengthen the horizon"
            )
        given = [m for m in (self.max_momentum, self.min_momentum) if m is not None]
        if len(given) == 1 or (given and not 0 <= given[1] <= given[0] < 1):
            raise UserError(
                "schedule.min_momentum <= max_momentum must both be in [0, 1), or both be null, "
                f"not {self.min_momentum!r} and {self.max_momentum!r}"
            )

    @property
    def final_lr_factor(self) -> float:
        return self.final

    def shape(self, step: int) -> float:
        return self._along(step, self.start, 1.0, self.start, self.final)

    def momentum(self, step: int) -> float | None:
        if self.max_momentum is None or self.min_momentum is None:
            return None
        high, low = self.max_momentum, self.min_momentum
        return self._along(max(step, self.warmup), high, low, high, high)

    def _along(self, step: int, begin: float, peak: float, fallen: float, end: float) -> float:
        """A curve through its values at the begin, the peak, the end of the fall and the last update."""
        last = self.horizon - 1
        knots = [(self.warmup, begin), (self.warmup + self.rise, peak)]
        if self.annihilate:
            knots.append((last - self.annihilate, fallen))
        for (x0, y0), (x1, y1) in pairwise([*knots, (last, end)]):
            if step <= x1:
                return mix(y1, y0, DECAYS[self.anneal]((step - x0) / (x1 - x0)))
        return end


@dataclass(kw_only=True)
class RangeTest(WithHorizon):
    """LR range test: from `start` in the first update to the peak LR in the last (Smith 2015, 1506.01186, section 3.3).

    Linear is torch's LinearLR, exponential its ExponentialLR with gamma = start^(-1/(updates - 1)).
    """

    start: float = 1e-4
    ramp: str = "linear"  # linear | exponential

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("start", self.start, positive=True)
        check_choice("ramp", self.ramp, ("linear", "exponential"))
        if self.horizon - self.warmup < 2:
            raise UserError(
                f"schedule.horizon of a range test must leave at least 2 updates after the warm-up of {self.warmup}, "
                f"not {self.horizon}"
            )

    @property
    def final_lr_factor(self) -> float:
        return 1.0

    def shape(self, step: int) -> float:
        share = min(1.0, (step - self.warmup) / (self.horizon - 1 - self.warmup))
        return mix(self.start, 1.0, share) if self.ramp == "linear" else self.start ** (1 - share)


@dataclass(kw_only=True)
class MomentumRangeTest(WithHorizon):
    """Momentum from `low` in the first update after the warm-up to `high` in the last, evenly in log(1 - momentum), at
    the peak LR throughout (Smith 2018, 1803.09820, section 4.3, where it rises linearly)."""

    low: float = 0.5
    high: float = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.low < self.high < 1:
            raise UserError(f"schedule.low < high must both be in [0, 1), not {self.low!r} and {self.high!r}")
        if self.horizon - self.warmup < 2:
            raise UserError(
                f"schedule.horizon of a range test must leave at least 2 updates after the warm-up of {self.warmup}, "
                f"not {self.horizon}"
            )

    @property
    def final_lr_factor(self) -> float:
        return 1.0

    def shape(self, step: int) -> float:
        return 1.0

    def momentum(self, step: int) -> float | None:
        share = min(1.0, max(0, step - self.warmup) / (self.horizon - 1 - self.warmup))
        return 1 - (1 - self.low) ** (1 - share) * (1 - self.high) ** share
