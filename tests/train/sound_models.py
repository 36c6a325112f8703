"""Classifiers of 8x8 images that look suspicious and are sound: the doctor must pass each of them."""

import random
import time
from dataclasses import dataclass
from typing import Any

import torch
from faulty_models import Base
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


class Plain(Base):
    pass


class FunctionalDropout(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(functional.dropout(self.hidden(x), 0.3, self.training))


class StochasticDepth(Base):
    """One mask per example, as timm's DropPath."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        h = self.hidden(x)
        branch = self.block(h)
        if self.training:
            branch = branch * h.new_empty(len(h), 1).bernoulli_(0.8) / 0.8
        return self.head(h + branch)


class BatchwiseDepth(StochasticDepth):
    """One draw for the whole micro-batch, as LayerDrop."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.hidden(x)
        if self.training and torch.rand(()) < 0.5:
            return self.head(h)
        return self.head(h + self.block(h))


class TiedAndFrozen(Base):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 16)
        self.again = nn.Linear(16, 16)
        self.again.weight = self.inner.weight
        self.body.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.again(torch.tanh(self.inner(self.hidden(x)))))


class Grouped(Base):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.GroupNorm(4, 8)
        self.instance = nn.InstanceNorm2d(8, affine=True)
        self.body = nn.Linear(8 * 64, 16)

    def forward(self, x: Tensor) -> Tensor:
        h = self.instance(self.norm(self.convolution(x.reshape(-1, 1, 8, 8))))
        return self.head(self.hidden(h))


class Recurrent(Base):
    def __init__(self) -> None:
        super().__init__()
        del self.body
        self.cells = nn.LSTM(8, 16, num_layers=2, dropout=0.2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        states = (torch.zeros(2, len(x), 16).to(x), torch.zeros(2, len(x), 16).to(x))
        return self.head(self.cells(x.reshape(-1, 8, 8), states)[0][:, -1])


class OldWeightNorm(Base):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.utils.weight_norm(self.body)


class NewWeightNorm(Base):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.utils.parametrizations.weight_norm(self.body)


class CountsBatches(Base):
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("phase", torch.ones(3, dtype=torch.complex64))
        self.calls, self.last_input = 0, None

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += len(x)
        self.calls += 1
        if self.calls % 1_000 == 0:
            print("another 1,000 batches")
        self.last_input: Any = x.detach()
        return super().forward(x)


class LazyMask(Base):
    """Keeps a mask for the shapes that it has met, and how long the longest was."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: dict[int, Tensor] = {}
        self.longest, self.positions = 0, torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        length = x.flatten(1).shape[1]
        if length not in self.masks:
            self.masks[length] = (torch.arange(length) % 2).float()
        if length > self.longest:
            self.longest, self.positions = length, torch.linspace(0, 1, length)
        return super().forward((x.flatten(1) + self.positions[:length].to(x)) * self.masks[length].to(x))


class Names(Base):
    """A list that its forward grows up to a bound and never computes with."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = ["body", "head"]
        self.timings: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        began = time.perf_counter()
        self.names.append(f"call {len(self.names)}")
        outputs = super().forward(x)
        self.timings.append(time.perf_counter() - began)
        return outputs


class Checkpointed(Base):
    def forward(self, x: Tensor) -> Tensor:
        def body(x: Tensor) -> Tensor:
            return functional.dropout(self.hidden(x), 0.2, self.training)

        h = checkpoint(body, x, use_reentrant=False)
        assert isinstance(h, Tensor)
        return self.head(h)


class Attention(Base):
    def __init__(self) -> None:
        super().__init__()
        del self.body
        self.embed = nn.Linear(8, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2)
        self.pool = nn.MultiheadAttention(16, 2, dropout=0.1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.layers(self.embed(x.reshape(-1, 8, 8)))
        return self.head(self.pool(h[:, :1], h, h)[0][:, 0])


@dataclass
class Output:
    logits: Tensor
    hidden: Tensor


class DataClassOutput(Base):
    def forward(self, x: Tensor) -> Output:  # type: ignore[override]
        h = self.hidden(x)
        return Output(self.head(h), h)


class ParameterLists(Base):
    def __init__(self) -> None:
        super().__init__()
        self.gains = nn.ParameterList([nn.Parameter(torch.ones(16)) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        h = self.hidden(x)
        for gain in self.gains:
            h = h * gain
        return self.head(h)


class Siamese(Base):
    """Calls its layers twice in one forward."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + super().forward(x.flip(-1))


class WeightStandardised(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        var, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True)
        return self._conv_forward(input, (self.weight - mean) * torch.rsqrt(var + 1e-5), self.bias)


class Standardised(Grouped):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = WeightStandardised(1, 8, 3, padding=1)


class Logs(Base):
    """Hooks that only look on."""

    def __init__(self) -> None:
        super().__init__()
        self.norms: list[Any] = []
        self.body.register_forward_hook(lambda module, args, output: self.norms.append(len(output)))
        self.head.weight.register_hook(lambda gradient: self.norms.append(gradient.shape))
        self.body.weight.register_hook(lambda gradient: 0.5 * gradient)  # linear: the same however a batch is split


class SwitchesBack(Base):
    """Freezes a part for a moment, and restores its mode."""

    def forward(self, x: Tensor) -> Tensor:
        mode = self.body.training
        self.body.eval()
        with torch.no_grad():
            guide = self.hidden(x)
        self.body.train(mode)
        return self.head(self.hidden(x) + guide)


class FrozenStatistics(Base):
    """Overrides train(), as fine-tuned backbones do."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Sequential(nn.LayerNorm(16), nn.Dropout(0.1))

    def train(self, mode: bool = True) -> "FrozenStatistics":
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.hidden(x)))


class Gated(Base):
    """A mixture: every example chooses one of three experts."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(16, 3)
        self.experts = nn.ModuleList(nn.Linear(16, 10) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.hidden(x)
        shares = self.gate(h).softmax(-1)
        chosen, outputs = shares.argmax(-1), torch.zeros(len(h), 10).to(h)
        for number, expert in enumerate(self.experts):
            rows = (chosen == number).nonzero()[:, 0]
            if len(rows):
                outputs = outputs.index_put((rows,), expert(h[rows]) * shares[rows, number, None])
        return outputs + self.head(h)


class NoisyTraining(Base):
    """Gaussian noise and random cropping of features, in training only."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.hidden(x)
        if self.training:
            h = h + 0.1 * torch.randn_like(h)
            h = h * (torch.rand(h.shape, dtype=h.dtype) < 0.9)
        return self.head(h)


class DrawsAtBuild(Base):
    """Uses Python's and numpy's generators with seeds of their own, and only in its constructor."""

    def __init__(self) -> None:
        super().__init__()
        chosen = random.Random(0).sample(range(64), 32)
        self.register_buffer("chosen", torch.tensor(sorted(chosen)))
        self.body = nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1)[:, self.chosen])  # type: ignore[index]


class Backwards(torch.autograd.Function):
    """The identity, whose gradient is reversed in sign (Ganin & Lempitsky 2015)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return -gradient


class ReversedGradient(Base):
    def forward(self, x: Tensor) -> Tensor:
        h = self.hidden(x)
        return self.head(h + Backwards.apply(h).tanh())  # type: ignore[union-attr]


SOUND = [
    kind for kind in list(globals().values()) if isinstance(kind, type) and issubclass(kind, Base) and kind is not Base
]
