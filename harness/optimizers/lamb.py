"""LAMB: Adam with one trust ratio per layer (You et al. 2019, 1904.00962, algorithm 2)."""

# Torch's own optimizers use the foreach functions too; only their names are private.
# pyright: reportPrivateImportUsage=false

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from harness.optimizers.layerwise import LayerwiseOptimizer, adapts, norms, trust_ratios
from harness.plan.errors import UserError


class LAMB(LayerwiseOptimizer):
    """For each layer, with m and v Adam's bias-corrected moments and weight decay lambda:

        u = m / (sqrt(v) + eps) + lambda w
        w <- w - lr x |w| / |u| x u

    The paper's phi is the identity and gradients are not clipped. Groups marked `norms_and_biases`
    (optimizers/groups.py) have a trust ratio of 1, an Adam step, unless `adapt_norms_and_biases`.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        adapt_norms_and_biases: bool = False,
    ) -> None:
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise UserError(f"optimizer.betas must be two numbers in [0, 1), not {list(betas)}")
        if not eps >= 0:
            raise UserError(f"optimizer.eps must be >= 0, not {eps}")
        super().__init__(params, weight_decay, adapt_norms_and_biases, lr=lr, betas=tuple(betas), eps=eps)

    def update_group(self, group: dict[str, Any], params: list[Tensor], gradients: list[Tensor]) -> None:
        beta1, beta2 = group["betas"]
        states = [self._state(p) for p in params]
        for state in states:
            state["step"] += 1
        first = [state["first_moment"] for state in states]
        second = [state["second_moment"] for state in states]
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)

        denominators = torch._foreach_div(second, [1 - beta2 ** state["step"] for state in states])
        torch._foreach_sqrt_(denominators)
        torch._foreach_add_(denominators, group["eps"])
        updates = torch._foreach_div(first, [1 - beta1 ** state["step"] for state in states])
        torch._foreach_div_(updates, denominators)
        torch._foreach_add_(updates, params, alpha=group["weight_decay"])
        if adapts(group):
            torch._foreach_mul_(updates, trust_ratios(norms(params), norms(updates)))
        torch._foreach_add_(params, updates, alpha=-group["lr"])

    def _state(self, p: Tensor) -> dict[str, Any]:
        state = self.state[p]
        if not state:
            state["step"] = 0  # a plain number: a tensor would be read back from the device at every update
            state["first_moment"] = torch.zeros_like(p)
            state["second_moment"] = torch.zeros_like(p)
        return state
