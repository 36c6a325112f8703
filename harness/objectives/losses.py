"""Losses as sums and counts, so that the mean over the global batch is taken once, however it is split (P1)."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from harness.plan.errors import UserError
from harness.plan.settings import Spec

IGNORED = -100  # target value of an element that does not count: torch's convention


@dataclass(frozen=True)
class Loss:
    """`total` sums the loss over counted elements; `scores` gives the sum for each of `metrics`.

    `count` is the number of counted elements: an int where it does not depend on the data, else a tensor.
    """

    metrics: tuple[str, ...]
    total: Callable[[Tensor, Tensor], Tensor]
    count: Callable[[Tensor], int | Tensor]
    scores: Callable[[Tensor, Tensor], dict[str, Tensor]]


def _cross_entropy_total(logits: Tensor, targets: Tensor) -> Tensor:
    if targets.is_floating_point():  # soft labels [n, classes]
        return functional.cross_entropy(logits, targets, reduction="sum")
    return functional.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="sum", ignore_index=IGNORED)


def _cross_entropy_count(targets: Tensor) -> int | Tensor:
    return len(targets) if targets.is_floating_point() else (targets != IGNORED).sum()


def _cross_entropy_scores(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    correct = (logits.argmax(-1) == targets).sum()
    return {"loss": _cross_entropy_total(logits, targets), "accuracy": correct}


LOSSES = {
    "cross_entropy": Loss(("loss", "accuracy"), _cross_entropy_total, _cross_entropy_count, _cross_entropy_scores),
    # The model's output is each example's loss (the noisy quadratic).
    "model_output": Loss(
        ("loss",),
        lambda outputs, targets: outputs.sum(),
        lambda targets: len(targets),
        lambda outputs, targets: {"loss": outputs.sum()},
    ),
}


def loss_named(name: str | Spec) -> Loss:
    """A loss by its conf name. Losses whose value depends on which examples share a batch are not available (P1)."""
    if not isinstance(name, str) or name not in LOSSES:
        raise UserError(f"unknown loss {name!r}: choose one of {', '.join(LOSSES)}")
    return LOSSES[name]
