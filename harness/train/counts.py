"""Which examples count, how many there are over all ranks, and when losses have exploded (P1, P11)."""

import math
from typing import Any

import torch
from torch import Tensor

from harness.datasets.examples import Augment, Examples
from harness.datasets.tree import leaves
from harness.objectives.objective import IGNORED
from harness.plan.errors import UserError

FACTOR = 1e3  # a loss this many times the first one has exploded


def every_target_counts(examples: Examples, augment: Augment | None = None) -> bool:
    """Whether all examples have targets of one shape, none of them ignored; False also where that cannot be told.

    Then the count of a batch follows from its size, which saves a reduction over ranks.
    """
    if augment is not None and not getattr(augment, "every_target_counts", False):
        return False
    declared = getattr(examples, "every_target_counts", None)
    if isinstance(declared, bool):
        return declared
    held: Any = getattr(examples, "targets", None)
    try:
        targets = [leaf for _, leaf in leaves(held)]
    except UserError:
        return False
    return all(leaf.dim() and len(leaf) == len(examples) and not _holds_ignored(leaf) for leaf in targets)


def _holds_ignored(targets: Tensor) -> bool:
    is_index = not targets.is_floating_point() and targets.dtype.is_signed
    return is_index and bool((targets == IGNORED).any())


def as_float64(value: int | Tensor, device: torch.device) -> Tensor:
    """A count or a sum as a float64 scalar on `device`, ready to be reduced over ranks."""
    return (
        value.detach().to(device, torch.float64)
        if isinstance(value, Tensor)
        else torch.full((), float(value), dtype=torch.float64, device=device)
    )


def exploded(losses: list[float], first_loss: float, diverges_at: float | None = None) -> int | None:
    """Index of the first loss that is non-finite or above `diverges_at` (None: FACTOR times the first one of the
    trial), else None (P11)."""
    limit = FACTOR * max(abs(first_loss), 1e-8) if diverges_at is None else diverges_at
    limit = limit if math.isfinite(first_loss) else -math.inf
    return next((i for i, loss in enumerate(losses) if not math.isfinite(loss) or loss > limit), None)
