"""Examples of the noisy quadratic: an endless stream of gradient noise, each example a hash of its place in it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.datasets.counter_hash import splitmix64
from harness.datasets.examples import Batch, Splits, TensorExamples, tensor_fingerprint


@dataclass(frozen=True)
class NoiseExamples:
    """Example i is a vector of independent +-sqrt(c_d); the signs are hash bits of (i, d)."""

    scale: Tensor  # [d], sqrt of the covariance's diagonal
    nominal_size: int

    def __len__(self) -> int:
        return self.nominal_size

    def to(self, device: torch.device, dtype: torch.dtype) -> "NoiseExamples":
        return replace(self, scale=self.scale.to(device, dtype))

    def batch(self, index: Tensor) -> Batch:
        words = -(-len(self.scale) // 64)
        counters = index[:, None] * words + torch.arange(words, device=index.device)
        bits = (splitmix64(counters)[:, :, None] >> torch.arange(64, device=index.device)) & 1
        signs = (2 * bits - 1).reshape(len(index), -1)[:, : len(self.scale)]
        return Batch(signs.to(self.scale.dtype) * self.scale, torch.zeros(len(index), device=index.device))


class NoisyQuadratic:
    """Gradient noise of covariance diag(`variances`), each value carried by `coordinates` dimensions.

    `epoch_examples` only names the unit "epoch"; the stream never repeats. Validation and test are one example
    without noise, whose loss is the exact expected loss at the weights being evaluated.
    """

    def __init__(self, variances: Sequence[float], coordinates: int = 256, epoch_examples: int = 65536) -> None:
        self.scale = torch.tensor(list(variances), dtype=torch.float64).sqrt().repeat_interleave(coordinates)
        self.epoch_examples = epoch_examples

    def load(self) -> Splits:
        exact = TensorExamples(torch.zeros(1, len(self.scale), dtype=torch.float64), torch.zeros(1))
        train = NoiseExamples(self.scale, self.epoch_examples)
        return Splits(train, exact, exact, tensor_fingerprint(self.scale), endless=True)
