"""LARS: SGD with momentum and one learning rate per layer (You, Gitman & Ginsburg 2017, 1708.03888, algorithm 1)."""

# Torch's own optimizers use the foreach functions too; only their names are private.
# pyright: reportPrivateImportUsage=false

from typing import Any

import torch
from torch import Tensor

from harness.optimizers.layerwise import LayerwiseOptimizer, adapts, norms, trust_ratios
from harness.plan.errors import UserError


class LARS(LayerwiseOptimizer):
    """For each layer, with global LR gamma, momentum m, weight decay beta and trust coefficient eta:

        local LR = eta |w| / (|g| + beta |w|)
        v <- m v + gamma x local LR x (g + beta w)
        w <- w - v

    The LR is part of the velocity, as in the paper: past steps keep the LR they were made with. Groups marked
    `norms_and_biases` (optimizers/groups.py) take plain momentum steps, local LR 1, unless `adapt_norms_and_biases`.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        adapt_norms_and_biases: bool = False,
    ) -> None:
        if not 0 <= momentum < 1:
            raise UserError(f"optimizer.momentum must be in [0, 1), not {momentum}")
        if not trust_coefficient > 0:
            raise UserError(f"optimizer.trust_coefficient must be > 0, not {trust_coefficient}")
        own = {"lr": lr, "momentum": momentum, "trust_coefficient": trust_coefficient}
        super().__init__(params, weight_decay, adapt_norms_and_biases, **own)

    def update_group(self, group: dict[str, Any], params: list[Tensor], gradients: list[Tensor]) -> None:
        for p in params:
            if "velocity" not in self.state[p]:
                self.state[p]["velocity"] = torch.zeros_like(p)
        velocities = [self.state[p]["velocity"] for p in params]
        decay = group["weight_decay"]

        directions = torch._foreach_add(gradients, params, alpha=decay)
        if adapts(group):
            weights = norms(params)
            local_lrs = trust_ratios(group["trust_coefficient"] * weights, norms(gradients) + decay * weights)
            torch._foreach_mul_(directions, local_lrs)
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_add_(velocities, directions, alpha=group["lr"])
        torch._foreach_sub_(params, velocities)
