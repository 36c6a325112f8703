"""Models that do not use every parameter in every micro-batch."""

import torch
from torch import Tensor, nn


class PartlyUsed(nn.Module):
    """A classifier with a layer that is never used and one that only batches with a large first pixel sum use."""

    def __init__(self, features: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.linear = nn.Linear(features, classes)
        self.never = nn.Linear(features, classes)
        self.sometimes = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        out = self.linear(x)
        return out + self.sometimes(x) if x[:, 20].sum() > x[:, 21].sum() else out


class NeverUsed(PartlyUsed):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1)) + 0 * torch.relu(x).sum()
