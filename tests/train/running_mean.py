"""A model with state that is neither parameter nor batch norm (P33)."""

import torch
from torch import Tensor, nn

RATE = 0.1


class Centred(nn.Module):
    """A classifier of inputs less their running mean; counts its training batches and sums their inputs."""

    mean: Tensor
    batches: Tensor
    total: Tensor

    def __init__(self, features: int = 64, classes: int = 10, offset: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(features, classes)
        self.offset = offset
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self.register_buffer("total", torch.zeros(()), persistent=False)
        self.register_buffer("constant", torch.arange(features) / 7)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1) + self.offset
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(x.mean(0), RATE)
                self.batches += 1
                self.total = self.total + x.sum()  # replaced, not changed in place
        return self.linear(x - self.mean + 1e-3 * torch.tanh(self.total))
