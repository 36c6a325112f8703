"""Procedural images: any number at any difficulty, computed on the device and never stored."""

import hashlib
import json
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from harness.datasets.counter_hash import counter_key, draw, near_normal
from harness.datasets.examples import Batch, Splits
from harness.plan.errors import UserError

COARSE = 4  # a prototype is a smooth enlargement of COARSE x COARSE random colours


@dataclass(frozen=True)
class NoisyPrototypes:
    """Example i shows the prototype of class i mod classes under noise hashed from (`key`, i, pixel)."""

    prototypes: Tensor  # [classes, 3, size, size], each of mean 0 and variance 1
    noise: float
    key: Tensor  # int64 scalar
    size: int

    def __len__(self) -> int:
        return self.size

    @property
    def targets(self) -> Tensor:
        """The class of every example, int64 [n]."""
        return torch.arange(self.size) % len(self.prototypes)

    def to(self, device: torch.device, dtype: torch.dtype) -> "NoisyPrototypes":
        return replace(self, prototypes=self.prototypes.to(device, dtype), key=self.key.to(device))

    def batch(self, index: Tensor) -> Batch:
        targets = index % len(self.prototypes)
        clean = self.prototypes.index_select(0, targets)
        pixel = torch.arange(clean[0].numel(), device=index.device)
        bits = draw(counter_key(self.key, index)[:, None], pixel)
        noise = near_normal(bits, clean.dtype).view_as(clean)
        return Batch((clean + self.noise * noise) / (1 + self.noise**2) ** 0.5, targets)


class SyntheticImages:
    """Images [n, 3, size, size] of variance 1, labels 0 to `classes` - 1 in equal shares; for tests at scale.

    `noise` is the pixel noise's standard deviation relative to a class prototype's. The best classifier confuses two
    classes with probability about Phi(-size * sqrt(3/2) / noise): 0.7 % at size 32 and noise 16. `data_seed` draws
    prototypes and noise; a split does not change with the size of another.
    """

    def __init__(
        self,
        classes: int = 10,
        size: int = 32,
        train: int = 50000,
        validation: int = 5000,
        test: int = 10000,
        noise: float = 8.0,
        data_seed: int = 0,
    ) -> None:
        if classes < 2 or size < COARSE or min(train, validation, test) < 1 or not noise >= 0:
            raise UserError(
                f"synthetic images need classes >= 2, size >= {COARSE}, noise >= 0 and splits >= 1 example, not "
                f"classes={classes}, size={size}, noise={noise}, train={train}, validation={validation}, test={test}"
            )
        self.classes = classes
        self.size = size
        self.counts = (train, validation, test)
        self.noise = noise
        self.data_seed = data_seed

    def declared_sizes(self) -> tuple[int, int, int]:
        return self.counts

    def is_prepared(self) -> bool:
        return True  # nothing is stored

    def load(self) -> Splits:
        shape = (self.classes, 3, COARSE, COARSE)
        cells = torch.arange(torch.Size(shape).numel())
        coarse = near_normal(draw(counter_key(self.data_seed, 0), cells), torch.float64).view(shape)
        smooth = functional.interpolate(coarse, size=(self.size, self.size), mode="bilinear")
        smooth -= smooth.mean((1, 2, 3), keepdim=True)
        prototypes = smooth / smooth.square().mean((1, 2, 3), keepdim=True).sqrt()
        train, validation, test = (
            NoisyPrototypes(prototypes.float(), self.noise, counter_key(self.data_seed, 1 + split), count)
            for split, count in enumerate(self.counts)
        )
        # The arguments determine the data: every pixel is a function of them.
        arguments = json.dumps([self.classes, self.size, self.counts, float(self.noise), self.data_seed])
        return Splits(train, validation, test, hashlib.sha256(arguments.encode()).hexdigest()[:16])
