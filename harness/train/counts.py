"""Which examples count, how many there are over all ranks, and when losses have exploded (P1, P11)."""

import math

import torch
from torch import Tensor

from harness.datasets.examples import Examples
from harness.objectives.losses import IGNORED


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
