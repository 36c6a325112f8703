"""Outputs and targets of a classification, told apart by their shapes."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.objectives.metrics.metric import INSTEAD, misfit
from harness.objectives.objective import IGNORED
from harness.plan.errors import UserError

NEEDS = {
    "multiclass": "class indices as targets and a score for each class as outputs",
    "binary": "targets of 0 or 1 and one logit for each as outputs",
    "multilabel": "targets of 0 or 1 for every label and a logit for each as outputs",
}


@dataclass(frozen=True)
class Labels:
    """Elements that count (all but targets of -100), flat.

    multiclass: `scores` [m, classes], `targets` [m]; binary: both [m]; multilabel: both [m, labels], where `counted`
    tells which labels of an example count.
    """

    kind: str  # multiclass | binary | multilabel
    scores: Tensor
    targets: Tensor
    counted: Tensor | None = None

    @property
    def classes(self) -> int:
        return 2 if self.kind == "binary" else self.scores.shape[-1]

    @property
    def predicted(self) -> Tensor:
        """The class with the largest score; of single logits, whether they are above 0."""
        return self.scores.argmax(-1) if self.kind == "multiclass" else (self.scores > 0).long()


def kind_of(outputs: Tensor, targets: Tensor) -> str | None:
    """multiclass | binary | multilabel; None for anything else, such as a regression."""
    if not targets.is_floating_point() and (_classes_last(outputs, targets) or _classes_second(outputs, targets)):
        return "multiclass"
    if outputs.shape == targets.shape and outputs.dim() > 1 and outputs.shape[-1] > 1:
        return "multilabel"
    return "binary" if _one_each(outputs, targets) else None


def read_labels(outputs: Tensor, targets: Tensor, metric: str, kinds: tuple[str, ...]) -> Labels:
    """UserError unless shapes are those of one of `kinds`."""
    kind = kind_of(outputs, targets)
    if kind not in kinds:
        raise misfit(metric, ", or ".join(NEEDS[kind] for kind in kinds), outputs, targets)
    if kind == "multiclass":
        scores = outputs if _classes_last(outputs, targets) else outputs.movedim(1, -1)
        scores, targets = scores.flatten(0, -2), targets.flatten().long()
    else:
        scores, targets = outputs.reshape(targets.shape), targets.long()
    counts = targets != IGNORED
    if kind == "multilabel":
        return Labels(kind, scores.flatten(0, -2), targets.flatten(0, -2), counts.flatten(0, -2))
    if kind == "binary":
        scores, targets, counts = scores.flatten(), targets.flatten(), counts.flatten()
    return Labels(kind, scores[counts], targets[counts])


def check_labels(outputs: Tensor, targets: Tensor, metric: str, kinds: tuple[str, ...]) -> Labels:
    """As `read_labels`; UserError also for targets that are no class of these outputs."""
    labels = read_labels(outputs, targets, metric, kinds)
    values = targets[targets != IGNORED].double()
    most = labels.classes - 1 if labels.kind == "multiclass" else 1
    wrong = values[(values != values.round()) | (values < 0) | (values > most)]
    if len(wrong):
        given = (
            f"the model has {labels.classes} classes, and a target is" if labels.kind == "multiclass" else "a target is"
        )
        raise UserError(f"metric {metric} needs {NEEDS[labels.kind]}; here {given} {wrong[0].item():g}: {INSTEAD}")
    return labels


def _classes_last(outputs: Tensor, targets: Tensor) -> bool:
    return outputs.dim() > 1 and outputs.shape[:-1] == targets.shape and outputs.shape[-1] > 1


def _classes_second(outputs: Tensor, targets: Tensor) -> bool:
    """Segmentation: a map of scores for each class, [n, classes, height, width]."""
    if outputs.dim() < 3 or outputs.dim() != targets.dim() + 1:
        return False
    return outputs.shape[1] > 1 and (outputs.shape[0], *outputs.shape[2:]) == tuple(targets.shape)


def _one_each(outputs: Tensor, targets: Tensor) -> bool:
    """One output for each target, in columns of one or without."""
    longer, shorter = (outputs, targets) if outputs.dim() >= targets.dim() else (targets, outputs)
    return longer.shape in (shorter.shape, (*shorter.shape, 1))


def positive_scores(labels: Labels) -> Iterator[tuple[Tensor, Tensor]]:
    """(scores, whether positive) in float64 of every class or label, one against the rest.

    Of two classes only the second, which is the positive one. Scores of classes are log probabilities, so that those of
    different examples compare.
    """
    if labels.kind == "binary":
        yield labels.scores.double(), labels.targets == 1
    elif labels.kind == "multilabel":
        assert labels.counted is not None
        columns = zip(labels.scores.unbind(1), labels.targets.unbind(1), labels.counted.unbind(1), strict=True)
        for column, truth, counted in columns:
            yield column[counted].double(), truth[counted] == 1
    elif labels.classes == 2:
        first, second = labels.scores.double().unbind(1)
        yield second - first, labels.targets == 1
    else:
        norm = torch.logsumexp(labels.scores.double(), 1)
        for k, column in enumerate(labels.scores.unbind(1)):
            yield tied(column.double() - norm), labels.targets == k


def tied(values: Tensor) -> Tensor:
    """Rounded to 40 binary digits: exp and log differ in the last one between SIMD lanes, and equal scores must stay
    equal wherever they stand in a batch."""
    return (values * 2**40).round() / 2**40
