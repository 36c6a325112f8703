"""Metrics that are a mean over elements, of the loss or of hits: one sum and one count each."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from harness.objectives.metrics.labels import NEEDS, check_labels, kind_of
from harness.objectives.metrics.metric import MeanMetric, Sums, misfit
from harness.objectives.objective import IGNORED
from harness.plan.errors import UserError

TOP = 5
MOST_BYTES = 512  # classes of a model whose targets are bytes: 256 and a few special ones


def accuracy_sums(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | int]:
    """Elements whose class, or whose own label, is predicted right."""
    kind = kind_of(outputs, targets)
    if kind == "multiclass":
        return (_classes_last(outputs, targets).argmax(-1) == targets).sum(), (targets != IGNORED).sum()
    if kind is None:
        raise misfit("accuracy", ", or ".join(NEEDS.values()), outputs, targets)
    counts = targets != IGNORED
    return (((outputs.reshape(targets.shape) > 0) == (targets > 0.5)) & counts).sum(), counts.sum()


def check_accuracy(outputs: Tensor, targets: Tensor) -> None:
    """UserError unless the targets are classes or labels of the outputs."""
    check_labels(outputs, targets, "accuracy", tuple(NEEDS))


def top5_sums(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | int]:
    """Elements whose class is among the five with the largest scores; of equal scores the first class wins."""
    scores, counts = _classes_last(outputs, targets), targets != IGNORED
    classes = targets.clamp(min=0)[..., None]
    own = scores.gather(-1, classes)
    is_first = torch.arange(scores.shape[-1], device=scores.device) < classes
    better = ((scores > own) | ((scores == own) & is_first)).sum(-1)
    return ((better < TOP) & counts & ~own.squeeze(-1).isnan()).sum(), counts.sum()


def check_top5(outputs: Tensor, targets: Tensor) -> None:
    """UserError unless there are more than five classes."""
    labels = check_labels(outputs, targets, "top5", ("multiclass",))
    if labels.classes <= TOP:
        raise UserError(
            f"metric top5 needs more than {TOP} classes, and the model has {labels.classes}: use accuracy instead"
        )


def cross_entropy_sums(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | int]:
    """Cross-entropy in nats of elements that count."""
    logits = _classes_last(outputs, targets).flatten(0, -2)
    total = functional.cross_entropy(logits, targets.flatten().long(), reduction="sum", ignore_index=IGNORED)
    return total, (targets != IGNORED).sum()


def _classes_last(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs if outputs.shape[:-1] == targets.shape else outputs.movedim(1, -1)


def check_perplexity(outputs: Tensor, targets: Tensor) -> None:
    """UserError unless the outputs score classes."""
    check_labels(outputs, targets, "perplexity", ("multiclass",))


def check_bits_per_byte(outputs: Tensor, targets: Tensor) -> None:
    """UserError unless every target can be a byte, as far as the outputs tell (those of a fused head do not)."""
    if not isinstance(outputs, Tensor):
        return
    labels = check_labels(outputs, targets, "bits_per_byte", ("multiclass",))
    if labels.classes > MOST_BYTES:
        raise UserError(
            f"metric bits_per_byte takes each target for one byte, and the model has {labels.classes:,} classes: "
            "use perplexity instead"
        )


def exponential(mean: float) -> float:
    """e to the mean, infinite where that is too large for a float."""
    return float(torch.tensor(mean, dtype=torch.float64).exp())


def of_cross_entropy(sums: str | Sums) -> tuple[MeanMetric, ...]:
    """perplexity and bits_per_byte; `sums`: of the loss where that is the cross-entropy, so that it is taken once."""
    return (
        MeanMetric("perplexity", sums, None if isinstance(sums, str) else check_perplexity, exponential),
        MeanMetric("bits_per_byte", sums, check_bits_per_byte, lambda mean: mean / math.log(2)),
    )


HITS = (MeanMetric("accuracy", accuracy_sums, check_accuracy), MeanMetric("top5", top5_sums, check_top5))
