"""Losses as sums and counts, so that the mean over the global batch is taken once, however it is split (P1)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from harness.datasets.examples import Examples
from harness.plan.errors import UserError

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


def loss_named(name: str) -> Loss:
    """A loss by its conf name. Losses whose value depends on which examples share a batch are not available (P1)."""
    if name not in LOSSES:
        raise UserError(f"unknown loss {name!r}: choose one of {', '.join(LOSSES)}")
    return LOSSES[name]


def every_example_counts(examples: Examples) -> bool:
    """Whether no example of a data set with one target each is ignored; False also where that cannot be told.

    Then the count of a batch is its length, which saves a reduction over ranks and a pass over all gradients.
    """
    targets = getattr(examples, "targets", None)
    return isinstance(targets, Tensor) and targets.dim() == 1 and not bool((targets == IGNORED).any())


def as_float64(value: int | Tensor, device: torch.device) -> Tensor:
    """A count or a sum as a float64 scalar on `device`, ready to be reduced over ranks."""
    return (
        value.detach().to(device, torch.float64)
        if isinstance(value, Tensor)
        else torch.tensor(float(value), dtype=torch.float64, device=device)
    )


def exploded(losses: list[float], first_loss: float, factor: float = 1e3) -> int | None:
    """Index of the first loss that is non-finite or `factor` times the first one of the trial (P11), else None."""
    limit = factor * max(abs(first_loss), 1e-8) if math.isfinite(first_loss) else -math.inf
    return next((i for i, loss in enumerate(losses) if not math.isfinite(loss) or loss > limit), None)
