"""Metrics of a classification by class: exact counts of hits, predictions and occurrences, and what follows of them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.objectives.metrics.labels import Labels, check_labels, read_labels
from harness.objectives.metrics.metric import Ranks

ANY = ("multiclass", "binary", "multilabel")


@dataclass(frozen=True)
class Counts:
    """int64 [3, classes or labels]: elements of the class that were predicted as it, all that were predicted as it, all
    of it; None before the first batch. `has_labels`: columns are labels, each with a truth of its own."""

    table: Tensor | None
    has_labels: bool = False


class ClassMetric:
    """A function of the counts of every class; needs no memory that grows with the split."""

    def __init__(self, name: str, of_counts: Callable[[Tensor, bool], Tensor], kinds: tuple[str, ...] = ANY) -> None:
        self.name = name
        self.of_counts = of_counts
        self.kinds = kinds

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        check_labels(outputs, targets, self.name, self.kinds)

    def start(self, device: torch.device) -> Counts:
        return Counts(None)

    def update(self, state: Counts, outputs: Tensor, targets: Tensor) -> Counts:
        labels = read_labels(outputs, targets, self.name, self.kinds)
        table = _table(labels)
        return Counts(table if state.table is None else state.table + table, labels.kind == "multilabel")

    def reduce(self, state: Counts, ranks: Ranks) -> Counts:
        classes = 0 if state.table is None else state.table.shape[1]
        known = ranks.maximum(torch.tensor([classes, int(state.has_labels)], device=ranks.device)).tolist()
        table = torch.zeros(3, known[0], dtype=torch.int64, device=ranks.device) if state.table is None else state.table
        return Counts(ranks.sum(table.clone()), bool(known[1]))

    def value(self, state: Counts) -> float:
        assert state.table is not None
        return float(self.of_counts(state.table.double(), state.has_labels))


def _table(labels: Labels) -> Tensor:
    predicted, truth = labels.predicted, labels.targets
    if labels.counted is not None:
        positive, counted = truth == 1, labels.counted
        return torch.stack([(x & counted).sum(0) for x in (positive & (predicted == 1), predicted == 1, positive)])
    hits = truth[truth == predicted]
    return torch.stack([torch.bincount(x, minlength=labels.classes) for x in (hits, predicted, truth)])


def balanced_accuracy(counts: Tensor, has_labels: bool) -> Tensor:
    """Mean share of hits over the classes that occur."""
    hits, _, actual = counts[:, counts[2] > 0]
    return (hits / actual).mean()


def f1_macro(counts: Tensor, has_labels: bool) -> Tensor:
    """Mean F1 over the classes that occur or are predicted; over all labels, where there are labels."""
    _, predicted, actual = counts
    return _f1(counts)[(predicted + actual > 0) | has_labels].mean()


def f1_weighted(counts: Tensor, has_labels: bool) -> Tensor:
    """Mean F1, each class weighted by how often it occurs."""
    return (_f1(counts) * counts[2]).sum() / counts[2].sum()


def _f1(counts: Tensor) -> Tensor:
    """2 hits / (predictions + occurrences); 0 for a class with neither."""
    hits, predicted, actual = counts
    return 2 * hits / (predicted + actual).clamp(min=1)


def mean_iou(counts: Tensor, has_labels: bool) -> Tensor:
    """Mean intersection over union over the classes that occur or are predicted."""
    hits, predicted, actual = counts
    union = predicted + actual - hits
    return (hits / union)[union > 0].mean()


CLASS_METRICS = (
    ClassMetric("balanced_accuracy", balanced_accuracy, ("multiclass", "binary")),
    ClassMetric("f1_macro", f1_macro),
    ClassMetric("f1_weighted", f1_weighted),
    ClassMetric("mean_iou", mean_iou),
)
