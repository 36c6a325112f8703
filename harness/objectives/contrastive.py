"""A loss whose examples are each other's negatives, hence coupled: it needs a fixed micro-batch."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from harness.objectives.objective import Measured, Objective, shapes
from harness.plan.errors import UserError


class Contrastive(Objective):
    """Outputs: two views of each example, a tuple of [n, width] or a tensor [n, 2, width]. The loss of an example is
    the cross entropy of finding its own other view among those of its micro-batch, in both directions (Radford et al.
    2021, 2103.00020, figure 3). Targets are not looked at.
    """

    couples = "batch"
    counts_examples = True

    def __init__(self, temperature: float = 0.1) -> None:
        if not temperature > 0:
            raise UserError(f"workload.loss.temperature must be > 0, not {temperature}")
        self.temperature = temperature

    def read(self, outputs: Any) -> Any:
        return outputs.unbind(1) if isinstance(outputs, Tensor) and outputs.dim() == 3 else outputs

    def measure(self, outputs: Any, targets: Any) -> Measured:
        first, second = (functional.normalize(view, dim=-1) for view in outputs)
        similarity = first @ second.T / self.temperature
        own = torch.arange(len(first), device=first.device)
        losses = [functional.cross_entropy(s, own, reduction="sum") for s in (similarity, similarity.T)]
        return (losses[0] + losses[1]) / 2, len(first)

    def check(self, outputs: Any, targets: Any) -> None:
        views = outputs if isinstance(outputs, tuple) else ()
        if len(views) != 2 or not all(isinstance(v, Tensor) and v.dim() == 2 for v in views):
            raise UserError(
                "contrastive needs two views of each example, outputs ([n, width], [n, width]) or [n, 2, width], not "
                f"{shapes(outputs)}"
            )
