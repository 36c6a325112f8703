"""What LARS and LAMB share: the step over groups, and the ratio of norms that sets each layer's own learning rate."""

# Torch's own optimizers use the foreach functions too; only their names are private.
# pyright: reportPrivateImportUsage=false

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from harness.plan.errors import UserError


class LayerwiseOptimizer(Optimizer):
    """An optimizer whose layers each have their own learning rate; those of groups marked `norms_and_biases`
    (optimizers/groups.py) only if `adapt_norms_and_biases`. Subclasses override `update_group`."""

    def __init__(self, params: Any, weight_decay: float, adapt_norms_and_biases: bool, **defaults: Any) -> None:
        if not weight_decay >= 0:
            raise UserError(f"optimizer.weight_decay must be >= 0, not {weight_decay}")
        shared = {"weight_decay": weight_decay, "adapt_norms_and_biases": adapt_norms_and_biases}
        super().__init__(params, {**defaults, **shared, "norms_and_biases": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient; gradients are not changed."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if params := [p for p in group["params"] if p.grad is not None]:
                self.update_group(group, params, [p.grad for p in params])
        return loss

    def update_group(self, group: dict[str, Any], params: list[Tensor], gradients: list[Tensor]) -> None:
        """One update of the `params` of `group` that have `gradients`."""
        raise NotImplementedError


def norms(tensors: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    """Euclidean norm of each tensor, [len(tensors)]."""
    return torch.stack(torch._foreach_norm(tensors))


def trust_ratios(numerators: Tensor, denominators: Tensor) -> list[Tensor]:
    """numerator / denominator of each layer as scalars on the device; 1 where either is 0.

    Otherwise a layer that starts at zero would have a learning rate of zero and stay there; the reference
    implementations of both papers do the same.
    """
    usable = (numerators > 0) & (denominators > 0)
    return list(torch.where(usable, numerators / denominators, 1.0).unbind())


def adapts(group: Mapping[str, Any]) -> bool:
    """Whether the group's layers get their own learning rates; norms and biases only with `adapt_norms_and_biases`."""
    return group["adapt_norms_and_biases"] or not group["norms_and_biases"]
