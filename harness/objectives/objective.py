"""What a trial minimises: sums with a count, so that the mean over the global batch is taken once (P1).

A file of this package that defines OBJECTIVES, names and how to build them, adds these names to `workload.loss`.
"""

import pkgutil
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from typing import Any, Self

import torch
from torch import Tensor

from harness import objectives
from harness.plan.errors import UserError
from harness.plan.loss_choice import DECLARED, couples_examples
from harness.plan.settings import Spec

IGNORED = -100  # integer target of an element that does not count: torch's convention

Measured = tuple[Tensor, int | Tensor]  # the sum of losses, a scalar; what it is divided by, summed over the batch


class Objective:
    """A loss and the metrics that come with it.

    A count that is an int depends on the shapes of its arguments alone; one that depends on their values is a tensor.
    """

    metrics: tuple[str, ...] = ("loss",)  # the keys of `scores`
    couples: str = "none"  # batch: an example's loss depends on which others share its micro-batch
    diverges_at: float | None = None  # a training loss above this has diverged; None: 1,000 times the first one
    counts_examples: bool = False  # the count of n examples is n, whatever they hold
    waits: bool = False  # measuring the loss reads values from the device
    ignore_index: int = IGNORED  # a class index that does not count
    targets_as: str | None = None  # keyword under which the model itself gets the targets; None: it does not see them

    def read(self, outputs: Any) -> Any:
        """What the loss takes of the model's outputs; UserError where it is not there."""
        return logits_of(outputs)

    def measure(self, outputs: Any, targets: Any) -> Measured:
        """Sum and count of the loss over a batch, of what `read` returned."""
        raise NotImplementedError

    def scores(self, outputs: Any, targets: Any) -> dict[str, Measured]:
        """Sum and count of every one of `metrics`."""
        return {"loss": self.measure(outputs, targets)}

    def classes(self, outputs: Any, targets: Any) -> int | None:
        """How many classes the targets may name, counting from 0; None where they are no class indices."""
        return None

    def check(self, outputs: Any, targets: Any) -> None:
        """Raises UserError, with the shapes, where outputs and targets of a batch do not fit the loss."""

    def where_all_count(self) -> "Objective":
        """The same loss for targets of which none is IGNORED, so that counts need not depend on their values."""
        return self

    def to(self, device: torch.device, dtype: torch.dtype, compute: torch.dtype) -> Self:
        """Move what the loss holds to `device` in `dtype`; `compute`: the dtype of its matrix products, if any."""
        return self


def check_class_indices(targets: Tensor, classes: int, ignored: int = IGNORED) -> None:
    """Raises UserError for a class index that has no output."""
    counted = targets[targets != ignored]
    least, most = (int(counted.min()), int(counted.max())) if counted.numel() else (0, 0)
    if least < 0:
        raise UserError(f"targets hold class {least}: classes count from 0, and {ignored} marks what does not count")
    if most >= classes:
        raise UserError(f"targets hold class {most}, but the {classes} outputs are for classes 0 to {classes - 1}")


def logits_of(outputs: Any) -> Tensor:
    """The model's outputs, or their logits: the models of transformers return more than logits."""
    if isinstance(outputs, Tensor):
        return outputs
    logits = outputs.get("logits", outputs) if isinstance(outputs, Mapping) else getattr(outputs, "logits", outputs)
    if not isinstance(logits, Tensor):
        given = "None" if logits is None else f"a {type(logits).__name__}"  # no shapes: such outputs can be large
        raise UserError(f"the model's forward must return a tensor, or an object with logits, not {given}")
    return logits


def shapes(value: Any) -> str:
    """For messages: `[8, 10]`, or `{input_ids: [8, 16], mask: [8, 16]}`; the type of whatever is no tensor."""
    if isinstance(value, Tensor):
        return str(list(value.shape))
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {shapes(item)}' for name, item in value.items())}}}"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(shapes, value))})"
    return "None" if value is None else f"a {type(value).__name__}"


@cache
def named_objectives() -> dict[str, Callable[[], Objective]]:
    """Every loss that `workload.loss` may name, in alphabetical order."""
    found: dict[str, Callable[[], Objective]] = {}
    for module in pkgutil.iter_modules(objectives.__path__, f"{objectives.__name__}."):
        found |= getattr(import_module(module.name), "OBJECTIVES", {})
    return dict(sorted(found.items()))


def objective_named(loss: str | Spec) -> Objective:
    """The objective of `workload.loss`: one of ours by name, or what a `_target_` gives (see `own`)."""
    if isinstance(loss, str):
        names = named_objectives()
        if loss not in names:
            near = get_close_matches(loss, names, 1)
            hint = f"did you mean {near[0]!r}? Choose" if near else "choose"
            raise UserError(f"unknown loss {loss!r}: {hint} one of {', '.join(names)}, or give a _target_")
        return names[loss]()
    from harness.objectives.own import objective_of

    objective = objective_of({key: value for key, value in loss.items() if key not in DECLARED})
    declared = {key: loss[key] for key in DECLARED if key in loss}
    if objective.couples != "none" and not couples_examples(loss):
        raise UserError(
            f"loss {loss['_target_']} couples the examples of a micro-batch: add couples: batch to workload.loss, and "
            "set cluster.per_device_batch_size"
        )
    for key, value in declared.items():
        setattr(objective, key, value)
    return objective
