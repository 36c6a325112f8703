"""Cross entropy of class indices or class probabilities, and the negative log-likelihood of class indices."""

import copy
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from harness.objectives.objective import IGNORED, Measured, Objective, check_class_indices, shapes
from harness.plan.errors import UserError


class CrossEntropy(Objective):
    """Logits [n, ..., classes] or, as torch has it, [n, classes, ...]; targets int [n, ...], of which IGNORED ones do
    not count, or probabilities in the shape of the logits.

    The mean is torch's: with a `weight` per class it is divided by the weights of the targets.
    """

    metrics = ("loss", "accuracy")
    name = "cross_entropy"

    def __init__(
        self, weight: Sequence[float] | Tensor | None = None, label_smoothing: float = 0.0, ignore_index: int = IGNORED
    ) -> None:
        if not 0 <= label_smoothing <= 1:
            raise UserError(f"label_smoothing must be in [0, 1], not {label_smoothing}")
        self.weight = None if weight is None else torch.as_tensor(weight)
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index
        self._all_count = False

    def to(self, device: torch.device, dtype: torch.dtype, compute: torch.dtype) -> Self:
        self.weight = None if self.weight is None else self.weight.to(device, dtype)
        return self

    def where_all_count(self) -> "CrossEntropy":
        alike = copy.copy(self)
        alike._all_count = self.ignore_index == IGNORED
        return alike

    def measure(self, outputs: Tensor, targets: Tensor) -> Measured:
        logits, targets = classes_second(outputs, targets)
        return self._total(logits, targets), self._count(logits, targets)

    def scores(self, outputs: Tensor, targets: Tensor) -> dict[str, Measured]:
        logits, targets = classes_second(outputs, targets)
        total, count = self._total(logits, targets), self._count(logits, targets)
        labels = targets.argmax(1) if targets.is_floating_point() else targets
        correct, counted = logits.argmax(1) == labels, count
        if self.ignore_index >= 0 and labels is targets:  # otherwise no prediction equals it
            correct &= labels != self.ignore_index
        if self.weight is not None:  # accuracy counts every class alike
            counted = labels.numel() if labels is not targets else (labels != self.ignore_index).sum()
        return {"loss": (total, count), "accuracy": (correct.sum(), counted)}

    def _total(self, logits: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(
            logits,
            targets,
            self.weight,
            ignore_index=self.ignore_index,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )

    def _count(self, logits: Tensor, targets: Tensor) -> int | Tensor:
        if targets.is_floating_point():
            return targets.numel() // targets.shape[1]
        if self.weight is None:
            return targets.numel() if self._all_count else (targets != self.ignore_index).sum()
        counts = targets != self.ignore_index
        return (self.weight[targets.where(counts, 0)] * counts).sum()

    def classes(self, outputs: Tensor, targets: Any) -> int | None:
        axis = _class_axis(outputs, targets) if isinstance(targets, Tensor) else None
        return None if axis is None or targets.is_floating_point() else outputs.shape[axis]

    def check(self, outputs: Tensor, targets: Any) -> None:
        check_classes(self.name, outputs, targets, self.ignore_index)
        classes = classes_second(outputs, targets)[0].shape[1]
        if self.weight is not None and len(self.weight) != classes:
            raise UserError(f"the loss has {len(self.weight)} class weights, but the model has {classes} outputs")


class NegativeLogLikelihood(CrossEntropy):
    """As CrossEntropy, for models whose outputs are log-probabilities; targets are class indices."""

    name = "nll"

    def __init__(self, weight: Sequence[float] | Tensor | None = None, ignore_index: int = IGNORED) -> None:
        super().__init__(weight, 0.0, ignore_index)

    def _total(self, logits: Tensor, targets: Tensor) -> Tensor:
        return functional.nll_loss(logits, targets, self.weight, ignore_index=self.ignore_index, reduction="sum")

    def check(self, outputs: Tensor, targets: Any) -> None:
        super().check(outputs, targets)
        if targets.is_floating_point():
            raise UserError("nll needs class indices as targets, not probabilities: use cross_entropy on logits")
        if bool((outputs > 1e-3).any()):
            raise UserError(
                f"nll needs log-probabilities, which are <= 0, but the model's outputs reach {outputs.max().item():.3g}"
                ": use cross_entropy, which takes logits"
            )


OBJECTIVES = {"cross_entropy": CrossEntropy, "nll": NegativeLogLikelihood}


def classes_second(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [m, classes, ...] and their targets, int64 [m, ...] or probabilities [m, classes, ...], as torch has them.

    Logits whose last axis is the classes are flattened to [m, classes]; where both readings fit, this is the one.
    """
    if targets.is_floating_point():
        return logits, targets.to(logits.dtype)
    if targets.dtype != torch.int64:
        targets = targets.long()
    if logits.dim() > 2 and logits.shape[:-1] == targets.shape:
        return logits.flatten(0, -2), targets.flatten()
    return logits, targets


def _class_axis(logits: Tensor, targets: Tensor) -> int | None:
    """Which axis of the logits is the classes, for class indices; None where the shapes do not fit."""
    if logits.shape[:-1] == targets.shape:
        return -1
    return 1 if (logits.shape[:1], logits.shape[2:]) == (targets.shape[:1], targets.shape[1:]) else None


def check_classes(name: str, logits: Tensor, targets: Any, ignored: int) -> None:
    """Raises UserError unless `targets` are class indices or class probabilities for `logits`."""
    if not isinstance(targets, Tensor):
        raise UserError(f"{name} needs targets that are one tensor, not {shapes(targets)}: write a loss of your own")
    given = f"outputs {shapes(logits)} and {'float ' * targets.is_floating_point()}targets {shapes(targets)}"
    if targets.is_floating_point():
        _check_probabilities(name, logits, targets, given)
        return
    if (axis := _class_axis(logits, targets)) is None:
        hint = "give targets without an axis of their own, one class index each"
        if logits.shape == targets.shape:
            hint = "use bce_with_logits where an example has several labels"
        raise UserError(f"{name} needs outputs [n, ..., classes] for class indices [n, ...], not {given}: {hint}")
    _check_number_of_classes(name, classes := logits.shape[axis], given)
    check_class_indices(targets, classes, ignored)


def _check_probabilities(name: str, logits: Tensor, targets: Tensor, given: str) -> None:
    if logits.shape != targets.shape or logits.dim() < 2:
        raise UserError(
            f"{name} reads float targets as the probabilities of the classes, in the shape of the outputs, not {given}"
            ": give class indices as integers, or use mse, l1 or huber for numbers"
        )
    _check_number_of_classes(name, logits.shape[1], given)
    sums = targets.double().sum(1).flatten()
    worst = sums[(sums - 1).abs().argmax()].item()
    if bool((targets < 0).any()) or abs(worst - 1) > 1e-2:
        raise UserError(
            f"{name} reads float targets as the probabilities of the classes, but those of an example sum to "
            f"{worst:.3g}: use bce_with_logits where an example has several labels"
        )


def _check_number_of_classes(name: str, classes: int, given: str) -> None:
    if classes < 2:
        raise UserError(
            f"{name} of a single class is always 0, but these are {given}: give the model an output for every class, "
            "or use bce_with_logits for yes or no and mse for a number"
        )
