"""A fully connected ReLU network."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from harness.models.initialisation import initialise


class MLP(nn.Module):
    """Input [n, ...] with `features` numbers per example, output logits [n, classes]; no batch norm.

    `widths` are the hidden layers' (empty: logistic regression); dropout follows every hidden ReLU.
    """

    def __init__(
        self, features: int, widths: Sequence[int], classes: int, dropout: float = 0.0, init: str = "he"
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width_in, width_out in zip([features, *widths], widths, strict=False):
            layers += [nn.Linear(width_in, width_out), nn.ReLU(inplace=True), nn.Dropout(dropout)]
        self.hidden = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1] if widths else features, classes)
        initialise(self, init)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.hidden(torch.flatten(inputs, 1)))
