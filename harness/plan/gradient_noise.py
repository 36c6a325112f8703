"""What is measured of the gradient noise, and the two-batch estimator of its scale.

Per-example gradients g have mean G and covariance Sigma. The noise scale tr(Sigma) / |G|^2, in examples, predicts
where a larger batch stops paying off (McCandlish et al. 2018, 1812.06162, "simple" form: to an order of magnitude).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from harness.plan.errors import UserError

HALF_LIFE_EVALUATIONS = 4  # of the average shown while a trial runs
FROZEN_BLOCKS = 16  # blocks of equally many draws; the error of an estimate is that of leaving one out


@dataclass(frozen=True)
class NoiseScale:
    """What a trial measures of its gradient noise; measuring changes none of its results."""

    in_training: bool = False  # squared norms of the gradients of every micro-batch and every batch
    frozen_every_examples: int = 0  # between two measurements at frozen weights; 0: none
    frozen_units: int = 0  # gradients drawn per measurement: of one example, or of one ghost group under batch norm

    def __post_init__(self) -> None:
        if self.frozen_every_examples < 0 or self.frozen_units < 0:
            raise UserError(
                "noise_scale.frozen_every_examples and noise_scale.frozen_units must be integers >= 0, not "
                f"{self.frozen_every_examples} and {self.frozen_units}"
            )
        if bool(self.frozen_every_examples) != bool(self.frozen_units):
            raise UserError(
                "noise_scale.frozen_every_examples and noise_scale.frozen_units must be set together, or both left at 0"
            )
        if self.frozen_units % FROZEN_BLOCKS:
            raise UserError(
                f"noise_scale.frozen_units must be a multiple of {FROZEN_BLOCKS}, not {self.frozen_units}: "
                f"the error is estimated from {FROZEN_BLOCKS} equal blocks"
            )

    @property
    def is_on(self) -> bool:
        return self.in_training or self.frozen_units > 0


class Moments(NamedTuple):
    """Of the per-example gradient: trace of its covariance, squared norm of its mean. Estimates may be negative."""

    trace: float
    squared_norm: float

    @property
    def noise_scale(self) -> float | None:
        """In examples; None where the estimate of |G|^2, or of the trace, is not positive."""
        positive = self.trace > 0 and self.squared_norm > 0
        return self.trace / self.squared_norm if positive and math.isfinite(self.trace) else None


def two_batch(
    small: float, big: float, small_square: float, big_square: float, population: float | None = None
) -> Moments:
    """Unbiased moments from the mean squared norms of gradients over `small` and over `big` examples (ibid., A.1).

    `population`: size N of a training set from which both were drawn without replacement, e.g. batches of one pass
    through it. Then E|G_b|^2 = |G|^2 + tr(Sigma) (1/b - 1/N), which leaves the difference unchanged and makes the usual
    estimate of |G|^2 too small by tr(Sigma) / N: at a noise scale of N/2 the ratio would be twice too large, and from N
    on there would be none. None: independent draws.
    """
    if not 0 < small < big:
        raise ValueError(f"the batches must satisfy 0 < small < big, not {small} and {big}")
    trace = (small_square - big_square) / (1 / small - 1 / big)
    squared_norm = (big * big_square - small * small_square) / (big - small)
    return Moments(trace, squared_norm + (trace / population if population else 0.0))


class MomentAverage:
    """Separate moving averages of numerator and denominator over evaluations: the ratio of two means is far less biased
    than a mean of ratios, whose denominators may be near 0."""

    def __init__(self, state: Iterable[float] = (0.0, 0.0, 0.0)) -> None:
        self.trace, self.squared_norm, self.weight = state

    def update(self, moments: Moments) -> None:
        keep = 0.5 ** (1 / HALF_LIFE_EVALUATIONS)
        if all(map(math.isfinite, moments)):
            self.trace = keep * self.trace + (1 - keep) * moments.trace
            self.squared_norm = keep * self.squared_norm + (1 - keep) * moments.squared_norm
            self.weight = keep * self.weight + (1 - keep)

    @property
    def value(self) -> Moments | None:
        """Bias-corrected; None before the first update."""
        return Moments(self.trace / self.weight, self.squared_norm / self.weight) if self.weight else None

    def state(self) -> list[float]:
        return [self.trace, self.squared_norm, self.weight]
