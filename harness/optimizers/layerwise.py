"""What LARS and LAMB share: the ratio of norms that sets each layer's own learning rate."""

# Torch's own optimizers rest on the foreach functions too; only their names are private.
# pyright: reportPrivateImportUsage=false

from typing import Any

import torch
from torch import Tensor


def norms(tensors: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    """Euclidean norm of each tensor, [len(tensors)]."""
    return torch.stack(torch._foreach_norm(tensors))


def trust_ratios(numerators: Tensor, denominators: Tensor) -> list[Tensor]:
    """numerator / denominator of each layer as scalars on the device; 1 where either is 0.

    Without the 1 a layer that starts at zero would have a learning rate of zero and never leave it; the reference
    implementations of both papers do the same.
    """
    usable = (numerators > 0) & (denominators > 0)
    return list(torch.where(usable, numerators / denominators, 1.0).unbind())


def adapts(group: dict[str, Any]) -> bool:
    """Whether the group's layers get a learning rate of their own; norms and biases do only when asked for."""
    return group["adapt_norms_and_biases"] or not group["norms_and_biases"]
