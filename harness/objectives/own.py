"""A loss by `_target_`: an Objective, one of torch's losses, or any callable of outputs and targets."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from harness.objectives.objective import Measured, Objective, shapes
from harness.plan.errors import UserError
from harness.plan.imports import user_code
from harness.plan.instantiate import build_arguments, check_arguments, instantiate, resolve
from harness.plan.loss_choice import COUPLES
from harness.plan.settings import Spec

REDUCTIONS = ("none", "sum")
Loss = Callable[[Any, Any], Any]


class Own(Objective):
    """A callable of (outputs, targets) that returns the loss of every element [n, ...], or (sum, count)."""

    def __init__(self, loss: Loss, name: str) -> None:
        self.loss = loss
        self.name = f"loss {name}"
        self.couples = getattr(loss, "couples", "none")
        self.diverges_at = getattr(loss, "diverges_at", None)
        if self.couples not in COUPLES:
            raise UserError(f"{self.name}.couples must be one of {', '.join(COUPLES)}, not {self.couples!r}")

    def read(self, outputs: Any) -> Any:
        return getattr(outputs, "logits", outputs)

    def measure(self, outputs: Any, targets: Any) -> Measured:
        return measured(self.name, self.loss(outputs, targets))

    def check(self, outputs: Any, targets: Any) -> None:
        check_measured(self.name, self.loss(outputs, targets), outputs, targets)

    def to(self, device: torch.device, dtype: torch.dtype, compute: torch.dtype) -> Self:
        if isinstance(self.loss, nn.Module):
            self.loss.to(device, dtype)
        return self


def measured(name: str, result: Any) -> Measured:
    """Sum and count from what a loss returned; UserError where they cannot be told."""
    if isinstance(result, Tensor) and result.dim():
        return result.sum(), result.numel()
    if isinstance(result, tuple) and len(result) == 2:
        total, count = result
        if isinstance(total, Tensor) and total.numel() == 1 and _is_count(count):
            # As a tensor, because even an int may depend on what the targets hold.
            counted = count if isinstance(count, Tensor) else torch.full_like(total, float(count))
            return total.reshape(()), counted.detach().reshape(())
    needed = "the loss of every example or element [n, ...], or (sum, count)"
    if isinstance(result, Tensor):
        raise UserError(
            f"{name} returned one number for a batch, which cannot be divided once over the global batch (P1): "
            f"return {needed}"
        )
    raise UserError(f"{name} must return {needed}, not {shapes(result)}")


def _is_count(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_measured(name: str, result: Any, outputs: Any, targets: Any) -> None:
    """Raises UserError for a result that is no loss of a whole batch."""
    total, count = measured(name, result)
    given = f"outputs {shapes(outputs)} and targets {shapes(targets)}"
    if not total.is_floating_point():
        raise UserError(f"{name} must return floating-point losses, not {total.dtype}, for {given}")
    if float(count) <= 0:
        raise UserError(f"{name} counted {float(count):g} elements of a batch, for {given}: the count must be > 0")
    if isinstance(result, Tensor) and isinstance(targets, Tensor) and len(result) != len(targets):
        raise UserError(
            f"{name} returned losses {shapes(result)} for {given}: the first axis of losses must be the examples"
        )


def objective_of(spec: Spec) -> Objective:
    """The objective of a `_target_`: a class is constructed with the spec's arguments; a function is the loss itself,
    called with them."""
    target, path = resolve(spec), str(spec["_target_"])
    if path.startswith("torch."):
        from harness.objectives.torch_losses import torch_objective

        return torch_objective(target, spec)
    if not isinstance(target, type):
        check_arguments(spec, None, None)
        check_reduction(path, reduction_of(target, spec))
        return Own(partial(target, **build_arguments(spec)) if len(spec) > 1 else target, path)
    check_arguments(spec)
    with user_code(f"loss {path} cannot be built"):
        loss = instantiate(spec)
    if isinstance(loss, Objective):
        return loss
    if not callable(loss):
        raise UserError(f"loss {path} must give a callable of outputs and targets, not {shapes(loss)}")
    check_reduction(path, getattr(loss, "reduction", "none"))
    if isinstance(loss, nn.Module) and any(parameter.requires_grad for parameter in loss.parameters()):
        raise UserError(f"loss {path} has parameters, which nothing would train: put them into the model")
    return Own(loss, path)


def reduction_of(target: Callable[..., Any], spec: Spec) -> Any:
    """What a loss is asked to do with the elements of a micro-batch; "none" where it cannot be asked."""
    try:
        parameter = inspect.signature(target).parameters.get("reduction")
    except (TypeError, ValueError):
        return spec.get("reduction", "none")
    return "none" if parameter is None else spec.get("reduction", parameter.default)


def check_reduction(path: str, reduction: Any) -> None:
    """Raises UserError for a mean over a micro-batch, because losses are divided once, over the global batch (P1)."""
    if reduction not in REDUCTIONS:
        raise UserError(
            f"loss {path} takes the {reduction} of a micro-batch, but losses are divided once, over the global batch "
            "(P1): give reduction: none or reduction: sum"
        )
