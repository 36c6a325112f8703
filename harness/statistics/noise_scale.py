"""The gradient noise scale from the sums a journal holds, with intervals by jackknife over blocks of draws.

Sums come in two kinds (harness/train/noise_scale.py measures them): squared norms of micro-batch and batch gradients
while a trial trains, and products of independently drawn gradients at frozen weights. All batch sizes are in examples.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from harness.plan.gradient_noise import Moments, two_batch
from harness.statistics.estimates import CONFIDENCE

Array = NDArray[np.float64]

LEAST_BLOCKS = 6  # with fewer the error of the error is too large; simulated at 6: docs/statistics.md
NOT_IDENTIFIED = "not identified"


@dataclass(frozen=True)
class NoiseEstimate:
    """Moments of the per-example gradient and the noise scale they give, each with its interval."""

    moments: Moments
    squared_norm: tuple[float, float]  # interval of |G|^2
    interval: tuple[float, float]  # of the noise scale, examples
    blocks: int

    @property
    def is_identified(self) -> bool:
        """Whether |G|^2 is told from 0: otherwise the ratio may be anything."""
        return self.squared_norm[0] > 0 and self.moments.noise_scale is not None

    @property
    def noise_scale(self) -> float | None:
        """In examples; None where it is not identified."""
        return self.moments.noise_scale if self.is_identified else None

    def __str__(self) -> str:
        if not self.is_identified:
            return NOT_IDENTIFIED
        low, high = self.interval
        return f"{self.noise_scale:,.3g} ({low:,.3g} to {high:,.3g})"


@dataclass(frozen=True)
class TrainingSums:
    """Of the updates between two evaluations, in blocks: [blocks, 3] = updates, and over them the sums of the mean
    squared norm of the micro-batch gradients and of the squared norm of the batch gradient."""

    piece_examples: int  # of a micro-batch
    total_batch_size: int
    population: int | None  # size of a training set passed through without replacement; None: endless
    blocks: Array

    def estimate(self) -> NoiseEstimate:
        """Over all blocks together; a block is the unit of the jackknife."""

        def moments(weights: Array) -> Array:
            updates, small, big = (weights @ self.blocks).T
            sizes = self.piece_examples, self.total_batch_size
            return np.array(two_batch(*sizes, small / updates, big / updates, self.population))

        return _estimate([moments], [len(self.blocks)])


@dataclass(frozen=True)
class FrozenProducts:
    """Of gradients g_1 ... g_n at fixed weights, drawn apart from each other, in K blocks of consecutive draws.

    A draw is the mean gradient of `unit_examples`: of one example, or of one batch-norm group.
    """

    unit_examples: int
    units: int  # n
    population: int | None  # examples in the training set they were drawn from without replacement
    squares: Array  # [K], sum of |g_i|^2 in each block
    products: Array  # [K, K], inner products of the blocks' sums
    levels: tuple[float, ...]  # at 2^j draws: sum of |sum of 2^j consecutive draws|^2 over all of them

    def estimate(self) -> NoiseEstimate:
        return frozen_estimate([self])

    def moments(self, weights: Array) -> Array:
        """[2, draws] trace and squared norm with block k counted `weights`[draw, k] times.

        The mean product over pairs of different draws is |G|^2 (less tr(Sigma) / N without replacement).
        """
        share = self.units // len(self.squares)
        within = np.diag(self.products) - self.squares  # pairs inside a block
        between = self.products - np.diag(np.diag(self.products))
        total, twice = weights.sum(1), np.square(weights).sum(1)
        pairs = share**2 * (total**2 - twice) + share * (share - 1) * total
        cross = ((weights @ between * weights).sum(1) + weights @ within) / pairs
        trace = self.unit_examples * (weights @ self.squares / share / total - cross)
        return np.array([trace, cross + (trace / self.population if self.population else 0.0)])

    def by_batch_size(self) -> "list[VarianceAt]":
        """Scatter and mean squared norm of the means of 1, 2, 4, ... draws, as long as there are 4 such means."""
        blocks, share = len(self.squares), self.units // len(self.squares)
        sizes = {2**j: level for j, level in enumerate(self.levels)}
        for together in (2**j for j in range(int(math.log2(blocks)) - 1)):
            whole = np.kron(np.eye(blocks // together), np.ones((together, together)))
            sizes[together * share] = float((self.products * whole).sum())
        mean = float(self.products.sum()) / self.units**2
        found = []
        for size, total in sorted(sizes.items()):
            means = self.units // size  # their number
            if means >= 4:
                square = total / size**2 / means
                variance = (square - mean) * means / (means - 1)
                found.append(VarianceAt(size * self.unit_examples, variance, square, means))
        return found


@dataclass(frozen=True)
class VarianceAt:
    """The gradient of batches of one size: `variance` is the trace of the scatter of `means` such gradients around
    their mean, tr(Sigma) / m in expectation; `squared_norm` their mean squared norm, |G|^2 + tr(Sigma) / m."""

    examples: int  # m
    variance: float
    squared_norm: float
    means: int


def training_sums(row: Mapping[str, Any], preconditioned: bool = False) -> TrainingSums | None:
    """Of one evaluation row; None where they were not measured."""
    found = row.get("noise_sums", {}).get("training")
    blocks = (found or {}).get("preconditioned" if preconditioned else "plain")
    if found is None or blocks is None:
        return None
    finite = [block for block in blocks if None not in block and block[0] > 0]
    table = np.array(finite, dtype=float).reshape(-1, 3)
    return TrainingSums(found["piece_examples"], found["total_batch_size"], found["population"], table)


def pooled(sums: Sequence[TrainingSums]) -> TrainingSums:
    """The blocks of several intervals or seeds of one arm together."""
    first = sums[0]
    kinds = {(s.piece_examples, s.total_batch_size, s.population) for s in sums}
    if len(kinds) > 1:
        raise ValueError(f"sums of different batches cannot be added: {sorted(map(str, kinds))}")
    blocks = np.concatenate([s.blocks for s in sums])
    return TrainingSums(first.piece_examples, first.total_batch_size, first.population, blocks)


def frozen_products(row: Mapping[str, Any], preconditioned: bool = False) -> FrozenProducts | None:
    """Of one evaluation row; None where they were not measured or are not finite."""
    found = row.get("noise_sums", {}).get("frozen")
    part = (found or {}).get("preconditioned" if preconditioned else "plain")
    if found is None or part is None:
        return None
    squares, products = (np.array(part[name], dtype=float) for name in ("squares", "products"))
    if not (np.isfinite(squares).all() and np.isfinite(products).all()):
        return None
    levels = tuple(float(level) for level in part["levels"])
    return FrozenProducts(found["unit_examples"], found["units"], found["population"], squares, products, levels)


def frozen_estimate(products: Sequence[FrozenProducts]) -> NoiseEstimate:
    """Of several trials at one place in training: their mean moments, each with its own error."""
    return _estimate([one.moments for one in products], [len(one.squares) for one in products])


def _estimate(moments: Sequence[Callable[[Array], Array]], blocks: Sequence[int]) -> NoiseEstimate:
    """Mean of `moments` with intervals from leaving out one block at a time; each takes how often its blocks count,
    [draws, blocks]. Student's t for |G|^2; Fieller's set for the ratio, bounded where |G|^2 is told from 0.
    """
    unknown = (-math.inf, math.inf), (0.0, math.inf)
    if not moments or min(blocks) == 0:
        return NoiseEstimate(Moments(math.nan, math.nan), *unknown, 0)
    whole = np.mean([of(np.ones((1, count)))[:, 0] for of, count in zip(moments, blocks, strict=True)], axis=0)
    found = Moments(float(whole[0]), float(whole[1]))
    if min(blocks) < LEAST_BLOCKS or not np.isfinite(whole).all():
        return NoiseEstimate(found, *unknown, min(blocks))
    covariance = np.zeros((2, 2))
    for of, count in zip(moments, blocks, strict=True):
        left_out = of(1 - np.eye(count))  # [2, count]
        covariance += np.cov(left_out) * (count - 1) ** 2 / count / len(moments) ** 2
    t = float(special.stdtrit(sum(blocks) - len(blocks), (1 + CONFIDENCE) / 2))
    half = t * math.sqrt(covariance[1, 1])
    return NoiseEstimate(
        found, (found.squared_norm - half, found.squared_norm + half), _ratio(found, covariance, t), min(blocks)
    )


def _ratio(found: Moments, covariance: Array, t: float) -> tuple[float, float]:
    """The positive part of Fieller's set: all B for which trace - B |G|^2 lies within t standard errors of 0."""
    (trace, norm), ((first, both), (_, second)) = found, (t * t * covariance).tolist()
    bend, slope, start = norm**2 - second, trace * norm - both, trace**2 - first
    root = math.sqrt(max(slope**2 - bend * start, 0.0))
    if bend > 0:
        return max((slope - root) / bend, 0.0), max((slope + root) / bend, 0.0)
    # |G|^2 is not told from 0: no upper end.
    ends = [] if bend == 0 else [end for end in ((slope - root) / bend, (slope + root) / bend) if end > 0]
    return (min(ends) if start > 0 and ends else 0.0), math.inf
