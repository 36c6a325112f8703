"""Where to look next in a space of LR, total batch size and momentum: grid, random, Sobol and Bayesian search.

Every sampler is a pure function: point i never changes when more are asked for, and a Bayesian search replayed from the
same scores proposes the same points, so that an interrupted search resumes where it stopped.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from scipy.stats import qmc

from harness.plan.errors import UserError

# Optimizer class -> range of the LRs that published runs report; its file in conf/optimizer gives the sources.
PUBLISHED_LRS = {
    "torch.optim.SGD": (0.05, 1.0),
    "torch.optim.Adam": (1e-4, 5e-3),
    "torch.optim.AdamW": (2e-4, 5e-3),
    "torch.optim.Adagrad": (3.4e-3, 1e-2),
    "harness.optimizers.lamb.LAMB": (3.5e-4, 1.4e-2),
    "harness.optimizers.lars.LARS": (7.4, 24.7),
}
SAMPLERS = ("grid", "random", "sobol", "bayesian")


@dataclass(frozen=True)
class Point:
    """One point of the space; momentum is None where the space does not vary it."""

    lr: float
    total_batch_size: int
    momentum: float | None = None


@dataclass(frozen=True)
class Space:
    """LR on a log scale, total batch sizes from a list, momentum m on a log scale of 1 - m."""

    lrs: tuple[float, float]
    total_batch_sizes: tuple[int, ...]
    momenta: tuple[float, float] | None

    def __post_init__(self) -> None:
        low, high = self.lrs
        if not (math.isfinite(low) and math.isfinite(high) and 0 < low < high):
            raise UserError(f"question.lr_range must be two numbers 0 < low < high, not {list(self.lrs)}")
        if not self.total_batch_sizes:
            raise UserError("question.total_batch_sizes is empty: give at least one, e.g. [16,32,64]")
        if self.momenta is not None and not 0 <= self.momenta[0] < self.momenta[1] < 1:
            raise UserError(
                f"question.momentum_range must be two numbers 0 <= low < high < 1, not {list(self.momenta)}"
            )

    def at(self, unit: Sequence[float]) -> Point:
        """The point at these coordinates of the unit cube: LR, batch size, momentum."""
        sizes = self.total_batch_sizes
        size = sizes[min(int(unit[1] * len(sizes)), len(sizes) - 1)]
        momentum = None if self.momenta is None else 1 - _log_mix(1 - self.momenta[0], 1 - self.momenta[1], unit[2])
        return Point(_log_mix(*self.lrs, unit[0]), size, momentum)


def grid(space: Space, lr_levels: int, momentum_levels: int) -> list[Point]:
    """Every combination of evenly spaced levels (in log) and all batch sizes."""
    sizes = [(i + 0.5) / len(space.total_batch_sizes) for i in range(len(space.total_batch_sizes))]
    momenta = _levels(momentum_levels) if space.momenta is not None else [0.0]
    return [space.at(unit) for unit in product(_levels(lr_levels), sizes, momenta)]


def random(space: Space, points: int, seed: int) -> list[Point]:
    return [space.at(np.random.default_rng([seed, i]).random(3).tolist()) for i in range(points)]


def sobol(space: Space, points: int, seed: int) -> list[Point]:
    """A scrambled Sobol sequence (Owen 1998), most even where `points` is a power of two."""
    sequence = qmc.Sobol(3, scramble=True, seed=seed)  # pyright: ignore[reportCallIssue]  # named rng from SciPy 1.15 on
    drawn = sequence.random_base2(max(0, math.ceil(math.log2(points))))
    return [space.at(unit.tolist()) for unit in drawn[:points]]


def bayesian(
    space: Space, points: int, seed: int, score: Callable[[Point], float | None], batch: int
) -> tuple[list[Point], bool]:
    """Optuna's tree-structured Parzen estimator, asked for `batch` points per round and given their scores together.

    `score` is minimised, and None until a point is decided. Returns the points asked for so far and whether all are
    decided. The first round is random.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=batch, multivariate=True, constant_liar=True)
    study = optuna.create_study(sampler=sampler)
    asked: list[Point] = []
    while len(asked) < points:
        trials = [study.ask() for _ in range(min(batch, points - len(asked)))]
        fresh = [_suggested(space, trial) for trial in trials]
        asked += fresh
        scores = [score(point) for point in fresh]
        decided = [value for value in scores if value is not None]
        if len(decided) < len(fresh):
            return asked, False
        for trial, value in zip(trials, decided, strict=True):
            study.tell(trial, value)
    return asked, True


def _suggested(space: Space, trial: Any) -> Point:
    """The point of an optuna.Trial."""
    size = trial.suggest_int("size", 0, len(space.total_batch_sizes) - 1)
    lr = trial.suggest_float("lr", *space.lrs, log=True)
    momentum = None
    if space.momenta is not None:
        momentum = 1 - trial.suggest_float("rest", 1 - space.momenta[1], 1 - space.momenta[0], log=True)
    return Point(lr, space.total_batch_sizes[size], momentum)


def _levels(count: int) -> list[float]:
    return [0.5] if count == 1 else [i / (count - 1) for i in range(count)]


def _log_mix(low: float, high: float, share: float) -> float:
    """low at share 0, high at share 1, even in log between."""
    return low * (high / low) ** share
