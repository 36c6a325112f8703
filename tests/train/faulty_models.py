"""Classifiers of 8x8 images, each with a planted fault that makes training depend on how a batch is split."""

import functools
import itertools
import random
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


class Base(nn.Module):
    """Sound: a perceptron whose parts the faulty models below change."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(64, 16)
        self.head = nn.Linear(16, 10)

    def hidden(self, x: Tensor) -> Tensor:
        return torch.tanh(self.body(x.flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(x))


class Centre(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        return h - h.mean(0)


class BatchMean(Base):
    """coupling: batch (Centre) | the other examples of its batch"""

    def __init__(self) -> None:
        super().__init__()
        self.batch = Centre()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.batch(self.hidden(x)))


class BatchMaximum(Base):
    """coupling: the forward of BatchMaximum | the other examples of its batch"""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(x / x.abs().max()))


class BatchLength(Base):
    """coupling: the forward of BatchLength | how many examples"""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(x)) / len(x)


class Cumulative(Base):
    """coupling: the forward of Cumulative | its place in the batch"""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(x).cumsum(0))


class Sorted(Base):
    """coupling: its place in the batch | the forward of Sorted"""

    def forward(self, x: Tensor) -> Tensor:
        order = x.flatten(1).sum(1).argsort()
        return super().forward(x[order])


class InBatchNegatives(Base):
    """coupling: the other examples of its batch | the forward of InBatchNegatives"""

    def forward(self, x: Tensor) -> Tensor:
        h = self.hidden(x)
        return self.head(h) - torch.logsumexp(h @ h.T, 1, keepdim=True) * torch.arange(10.0, dtype=h.dtype)


class OwnBatchNorm(nn.Module):
    running: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("running", torch.zeros(width))

    def forward(self, h: Tensor) -> Tensor:
        if not self.training:
            return h - self.running
        mean = h.mean(0)
        with torch.no_grad():
            self.running.lerp_(mean, 0.1)
        return h - mean


class HandWrittenBatchNorm(Base):
    """state: buffer norm.running | in evaluation"""

    def __init__(self) -> None:
        super().__init__()
        self.norm = OwnBatchNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.hidden(x)))


class Mixes(Base):
    """coupling: in training, the forward of Mixes | the other examples of its batch"""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            x = 0.7 * x + 0.3 * x[torch.randperm(len(x))]
        return super().forward(x)


class RareMaximum(Base):
    """coupling: in training"""

    def forward(self, x: Tensor) -> Tensor:
        h = self.hidden(x)
        return self.head(h / h.norm()) if self.training else self.head(h)


class RunningAttribute(Base):
    """state: attribute mean | in no checkpoint"""

    def __init__(self) -> None:
        super().__init__()
        self.mean: Any = 0.0

    def forward(self, x: Tensor) -> Tensor:
        h = self.hidden(x)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
        return self.head(h - self.mean)


class MovingBuffer(Base):
    """state: buffer scale"""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.scale = 0.9 * self.scale + 0.1 * x.abs().mean()
        return super().forward(x) * self.scale


class Momentum(Base):
    """state: attribute history"""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.history = [*self.history[-3:], x.detach().mean()]
        return super().forward(x) + torch.stack(self.history).mean()


class CachedByShape(Base):
    """state: attribute cache"""

    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[Any, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        if x.shape not in self.cache:
            self.cache[x.shape] = torch.tanh(x.flatten(1).mean(1, keepdim=True)).detach()
        return super().forward(x) * self.cache[x.shape]


CALLS = 0


class GlobalCounter(Base):
    """state: global faulty_models.CALLS"""

    def forward(self, x: Tensor) -> Tensor:
        global CALLS
        CALLS += 1
        return super().forward(x) / (1 + 0.01 * CALLS)


class ClassCounter(Base):
    """state: global ClassCounter.calls"""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        ClassCounter.calls += 1
        return super().forward(x) / (1 + 0.01 * ClassCounter.calls)


class FrozenLater(Base):
    """state: attribute calls counts calls"""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > 500:
            self.body.requires_grad_(False)
        return super().forward(x)


class EpochOfItsOwn(Base):
    """state: attribute seen counts calls"""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.epoch = 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        self.epoch = self.seen // 1_797
        return 0.9**self.epoch * super().forward(x)


class CounterBuffer(Base):
    """state: buffer step counts calls"""

    step: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.step += 1
        return super().forward(x) * (1.0 if self.step < 64 else 0.5)


class CarriedState(Base):
    """state: attribute carried"""

    def __init__(self) -> None:
        super().__init__()
        self.carried: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        h = self.hidden(x)
        if self.carried is not None:
            h = h + 0.5 * self.carried.mean(0)
        self.carried = h.detach()
        return self.head(h)


class OwnGenerator(Base):
    """state: attribute generator"""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        h = self.hidden(x)
        return self.head(h + 0.1 * torch.randn(h.shape, generator=self.generator) if self.training else h)


class OwnCount(Base):
    """state: attribute numbers"""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / (1 + next(self.numbers))


class CachedByFunction(Base):
    """state: CachedByFunction.scale"""

    @functools.lru_cache  # noqa: B019
    def scale(self, shape: Any) -> Tensor:
        return 1 + self.latest.detach().abs().mean()

    def forward(self, x: Tensor) -> Tensor:
        self.latest = self.hidden(x)
        return self.head(self.latest) * self.scale(x.shape)


class DropoutInEvaluation(Base):
    """randomness: drop (Dropout) draws random numbers in evaluation"""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.2)

    def train(self, mode: bool = True) -> "DropoutInEvaluation":
        super().train(mode)
        self.drop.train()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.hidden(x)))


class DefaultArgument(Base):
    """state: global DefaultArgument.forward"""

    def forward(self, x: Tensor, seen: list[float] = []) -> Tensor:  # noqa: B006
        seen.append(0.1)
        return super().forward(x) * (1 + sum(seen))


class LeftInEvaluation(Base):
    """state: leaves body in evaluation mode"""

    def forward(self, x: Tensor) -> Tensor:
        self.body.eval()
        return super().forward(x)


class Toggles(Base):
    """state: evaluation mode | leaves"""

    def forward(self, x: Tensor) -> Tensor:
        self.train(not self.training)
        return super().forward(x)


class TrainsInEvaluation(Base):
    """state: a forward pass in evaluation leaves body in training mode"""

    def forward(self, x: Tensor) -> Tensor:
        self.body.train()
        return super().forward(x)


class ClampsWeights(Base):
    """state: changes parameter body.weight"""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.body.weight.clamp_(-0.05, 0.05)
        return super().forward(x)


class AddsHooks(Base):
    """state: adds a hook to body"""

    def forward(self, x: Tensor) -> Tensor:
        def shrink(module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
            return 0.9 * output

        self.body.register_forward_hook(shrink)
        return super().forward(x)


class NumpyNoise(Base):
    """randomness: numpy.random | the forward of NumpyNoise"""

    def forward(self, x: Tensor) -> Tensor:
        h = self.hidden(x)
        return self.head(h + torch.from_numpy(np.random.randn(*h.shape)).to(h) if self.training else h)


class PythonNoise(Base):
    """randomness: Python's random module"""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (0.5 if self.training and random.random() < 0.5 else 1.0)


class ByTheClock(Base):
    """randomness: the time"""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 + 1e-3 * (time.perf_counter_ns() % 1_000))


class NoiseInEvaluation(Base):
    """randomness: draws random numbers in evaluation | the forward of NoiseInEvaluation"""

    def forward(self, x: Tensor) -> Tensor:
        h = self.hidden(x)
        return self.head(h + 0.1 * torch.rand_like(h))


class Always(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        return functional.dropout(h, 0.2)


class DropoutWithoutFlag(Base):
    """randomness: drop (Always) draws random numbers in evaluation"""

    def __init__(self) -> None:
        super().__init__()
        self.drop = Always()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.hidden(x)))


class SeedsItself(Base):
    """randomness: sets torch's seed"""

    def forward(self, x: Tensor) -> Tensor:
        torch.manual_seed(0)
        return self.head(functional.dropout(self.hidden(x), 0.2, self.training))


class NumpyWeights(Base):
    """randomness: the initial body.weight"""

    def __init__(self) -> None:
        super().__init__()
        self.body.weight.data = torch.from_numpy(np.random.default_rng().normal(0, 0.1, (16, 64))).float()


class FixedNoise(Base):
    """coupling: its place in the batch"""

    def forward(self, x: Tensor) -> Tensor:
        h = self.hidden(x)
        generator = torch.Generator().manual_seed(0)
        return self.head(h + 0.1 * torch.randn(h.shape, generator=generator))


class HalfDetached(Base):
    """gradients: body.weight | is not the sum over its examples"""

    def forward(self, x: Tensor) -> Tensor:
        h = self.hidden(x)
        half = len(h) // 2
        return self.head(torch.cat([h[:half].detach(), h[half:]]))


class ClampingHook(Base):
    """gradients: head.weight | a gradient hook on head.weight"""

    def __init__(self) -> None:
        super().__init__()
        self.head.weight.register_hook(lambda gradient: gradient.clamp(-1, 1))


class HookByBatch(Base):
    """gradients: body.weight | a gradient hook on body.weight"""

    def __init__(self) -> None:
        super().__init__()
        self.size = 1
        self.body.weight.register_hook(lambda gradient: gradient / self.size)

    def forward(self, x: Tensor) -> Tensor:
        self.size = len(x)
        return super().forward(x)


class HookOnActivation(Base):
    """gradients: body.weight | a hook on an activation"""

    def forward(self, x: Tensor) -> Tensor:
        h = self.hidden(x)
        if h.requires_grad:
            h.register_hook(lambda gradient: gradient / gradient.norm())
        return self.head(h)


class NormalisingModuleHook(Base):
    """gradients: a gradient hook on body"""

    def __init__(self) -> None:
        super().__init__()
        self.body.register_full_backward_pre_hook(lambda module, gradients: (gradients[0] / gradients[0].norm(),))


class Unused(Base):
    """parameters: unused: extra.weight, extra.bias got no gradient in any"""

    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Linear(16, 3)


class SometimesUsed(Base):
    """parameters: sometimes unused: extra.weight, extra.bias"""

    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.hidden(x)
        if torch.rand(()) < 0.5 and self.training:
            return self.head(h) + self.extra(h)
        return self.head(h)


FAULTY = [
    kind for kind in list(globals().values()) if isinstance(kind, type) and issubclass(kind, Base) and kind is not Base
]
