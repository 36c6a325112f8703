"""Losses that the model computes itself."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from harness.objectives.objective import Measured, Objective
from harness.objectives.own import check_measured, measured
from harness.plan.errors import UserError


class ModelOutput(Objective):
    """The model's output is each example's loss [n] (the noisy quadratic)."""

    counts_examples = True

    def measure(self, outputs: Tensor, targets: Any) -> Measured:
        return outputs.sum(), len(outputs)

    def check(self, outputs: Tensor, targets: Any) -> None:
        if outputs.dim() == 0:
            raise UserError(
                "model_output needs the loss of each example [n], but the model returned one number for all of them: "
                "return losses without taking their mean"
            )


class ModelLosses(Objective):
    """The model is also given the targets, under the keyword `targets_as`, and returns losses as a loss of the user's
    own does: [n, ...], or their sum and count; as its output, or as `loss` in it."""

    name = "the model"

    def __init__(self, targets_as: str = "targets") -> None:
        self.targets_as = targets_as

    def read(self, outputs: Any) -> Any:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", outputs)
        if loss is None:
            raise UserError("model_losses: the model's outputs hold no loss, although it was given the targets")
        return loss

    def measure(self, outputs: Any, targets: Any) -> Measured:
        return measured(self.name, outputs)

    def check(self, outputs: Any, targets: Any) -> None:
        check_measured(self.name, outputs, outputs, targets)


OBJECTIVES = {"model_output": ModelOutput, "model_losses": ModelLosses}
