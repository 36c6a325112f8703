"""Examples of the noisy quadratic: an endless stream of gradient noise, each example a hash of its position."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from harness.datasets.counter_hash import splitmix64
from harness.datasets.examples import Batch, Splits, TensorExamples, tensor_fingerprint
from harness.plan.errors import UserError


@dataclass(frozen=True)
class NoiseExamples:
    """Example i is a vector of independent +-sqrt(c_d); the signs are hash bits of (i, d)."""

    scale: Tensor  # [d], sqrt of the covariance's diagonal
    signs: Tensor  # [256, 8], the bits of a byte as -1 and +1: one look-up gives eight coordinates
    nominal_size: int

    def __len__(self) -> int:
        return self.nominal_size

    def to(self, device: torch.device, dtype: torch.dtype) -> "NoiseExamples":
        return replace(self, scale=self.scale.to(device, dtype), signs=self.signs.to(device, dtype))

    def batch(self, index: Tensor) -> Batch:
        words = -(-len(self.scale) // 64)
        hashed = splitmix64(index[:, None] * words + torch.arange(words, device=index.device))
        signs = functional.embedding(hashed.view(torch.uint8).int(), self.signs).view(len(index), -1)
        return Batch(signs[:, : len(self.scale)] * self.scale, torch.zeros(len(index), device=index.device))


class NoisyQuadratic:
    """Gradient noise of covariance diag(`variances`), each value repeated over `coordinates` dimensions.

    `epoch_examples` only defines the unit "epoch"; the stream never repeats. Validation and test are one example
    without noise, whose loss is the exact expected loss at the weights being evaluated.
    """

    def __init__(self, variances: Sequence[float], coordinates: int = 256, epoch_examples: int = 16384) -> None:
        if not variances or not all(math.isfinite(c) and c >= 0 for c in variances):
            raise UserError(f"dataset.variances must be one or more numbers >= 0, not {list(variances)}")
        if coordinates < 1 or epoch_examples < 1:
            raise UserError(
                f"dataset.coordinates and dataset.epoch_examples must be >= 1, not {coordinates} and {epoch_examples}"
            )
        self.scale = torch.tensor(list(variances), dtype=torch.float64).sqrt().repeat_interleave(coordinates)
        self.epoch_examples = epoch_examples

    def declared_sizes(self) -> tuple[int, int, int]:
        return self.epoch_examples, 1, 1

    def is_prepared(self) -> bool:
        return True  # nothing is stored

    def load(self) -> Splits:
        exact = TensorExamples(torch.zeros(1, len(self.scale), dtype=torch.float64), torch.zeros(1))
        bits = (torch.arange(256)[:, None] >> torch.arange(8)) & 1
        train = NoiseExamples(self.scale, (2 * bits - 1).double(), self.epoch_examples)
        return Splits(train, exact, exact, tensor_fingerprint(self.scale), endless=True)
