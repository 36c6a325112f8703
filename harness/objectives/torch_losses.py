"""torch's losses, by name or by `_target_`: the mean that torch takes, taken once over the global batch (P1)."""

from collections.abc import Callable
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.objectives.cross_entropy import CrossEntropy, NegativeLogLikelihood
from harness.objectives.ctc import Ctc
from harness.objectives.objective import Measured, Objective, shapes
from harness.objectives.own import Own, check_reduction, reduction_of
from harness.plan.errors import UserError
from harness.plan.instantiate import build_arguments, check_arguments, instantiate
from harness.plan.settings import Spec

# Losses of outputs and targets in one shape. torch broadcasts some of them: [n, 1] and [n] would become [n, n].
ELEMENTWISE: dict[Any, str] = {
    nn.BCEWithLogitsLoss: "bce_with_logits",
    nn.BCELoss: "bce",
    nn.MSELoss: "mse",
    nn.L1Loss: "l1",
    nn.HuberLoss: "huber",
    nn.SmoothL1Loss: "smooth_l1",
    nn.KLDivLoss: "kl_div",
    nn.PoissonNLLLoss: "poisson_nll",
    nn.SoftMarginLoss: "soft_margin",
}
FUNCTIONS: dict[Callable[..., Any], type[nn.Module]] = {
    functional.cross_entropy: nn.CrossEntropyLoss,
    functional.nll_loss: nn.NLLLoss,
    functional.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
    functional.binary_cross_entropy: nn.BCELoss,
    functional.mse_loss: nn.MSELoss,
    functional.l1_loss: nn.L1Loss,
    functional.huber_loss: nn.HuberLoss,
    functional.smooth_l1_loss: nn.SmoothL1Loss,
}
TENSORS = ("weight", "pos_weight")  # arguments that torch wants as tensors; in conf they are lists of numbers


class Elementwise(Objective):
    """A loss of outputs and targets of one shape [n, ...], averaged over all elements."""

    def __init__(self, loss: nn.Module, name: str) -> None:
        self.loss, self.name = loss, name

    def measure(self, outputs: Tensor, targets: Tensor) -> Measured:
        return self.loss(outputs, targets.to(outputs.dtype)).sum(), targets.numel()

    def to(self, device: torch.device, dtype: torch.dtype, compute: torch.dtype) -> Self:
        self.loss.to(device, dtype)
        return self

    def check(self, outputs: Tensor, targets: Any) -> None:
        if not isinstance(targets, Tensor) or outputs.shape != targets.shape:
            hint = ""
            if isinstance(targets, Tensor) and outputs.shape == (*targets.shape, 1):
                hint = f": give targets the shape {[*targets.shape, 1]}"
            elif isinstance(targets, Tensor) and not targets.is_floating_point() and targets.dim() < outputs.dim():
                hint = ": use cross_entropy for class indices, or give one-hot targets"
            raise UserError(
                f"{self.name} needs outputs and targets of one shape, not outputs {shapes(outputs)} and targets "
                f"{shapes(targets)}{hint}"
            )
        if self.name.startswith("bce") and bool(((targets < 0) | (targets > 1)).any()):
            raise UserError(
                f"{self.name} needs targets from 0 to 1, but they go from {targets.min().item():.3g} to "
                f"{targets.max().item():.3g}"
            )


def torch_objective(target: Callable[..., Any], spec: Spec) -> Objective:
    """The objective of a loss of torch's; UserError where it takes a mean over a micro-batch."""
    path, target = str(spec["_target_"]), FUNCTIONS.get(target, target)
    check_reduction(path, reduction_of(target, spec))
    given = {key: _tensor(value) if key in TENSORS else value for key, value in spec.items()}
    given["_target_"] = f"{target.__module__}.{target.__qualname__}" if isinstance(target, type) else path
    if not isinstance(target, type):
        check_arguments(given, None, None)
        return Own(partial(target, **{**build_arguments(given), "reduction": "none"}), path)
    loss = instantiate(given)
    loss.reduction = "none"
    # By exact type: a subclass may compute something else.
    if type(loss) is nn.CrossEntropyLoss:
        return CrossEntropy(loss.weight, loss.label_smoothing, loss.ignore_index)
    if type(loss) is nn.NLLLoss:
        return NegativeLogLikelihood(loss.weight, loss.ignore_index)
    if type(loss) is nn.CTCLoss:
        return Ctc(loss.blank, loss.zero_infinity)
    name = ELEMENTWISE.get(type(loss))
    return Own(loss, path) if name is None else Elementwise(loss, name)


def _tensor(value: Any) -> Any:
    return torch.tensor(value, dtype=torch.float64) if isinstance(value, list | tuple) else value


def _named(kind: type[nn.Module]) -> Callable[[], Objective]:
    return lambda: Elementwise(kind(reduction="none"), ELEMENTWISE[kind])


NAMED = (nn.BCEWithLogitsLoss, nn.MSELoss, nn.L1Loss, nn.HuberLoss, nn.SmoothL1Loss)
OBJECTIVES = {ELEMENTWISE[kind]: _named(kind) for kind in NAMED}
