"""auroc and average_precision: exact in float64, from all scores of a split, gathered over ranks."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.objectives.metrics.labels import Labels, check_labels, positive_scores, read_labels
from harness.objectives.metrics.metric import Ranks, gather_unpadded

KINDS = ("multiclass", "binary", "multilabel")


@dataclass(frozen=True)
class Scores:
    """All batches so far; lists of tensors by rank and batch."""

    kind: str
    scores: list[Tensor]
    targets: list[Tensor]
    counted: list[Tensor]  # of labels

    def labels(self) -> Labels:
        counted = torch.cat(self.counted) if self.kind == "multilabel" else None
        return Labels(self.kind, torch.cat(self.scores), torch.cat(self.targets), counted)


class RankingMetric:
    """Mean over classes or labels of a function of (scores, whether positive); every rank holds those of the split."""

    def __init__(self, name: str, of_scores: Callable[[Tensor, Tensor], float]) -> None:
        self.name = name
        self.of_scores = of_scores

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        check_labels(outputs, targets, self.name, KINDS)

    def bytes_per_example(self, outputs: Tensor, targets: Tensor) -> float:
        """What the state holds of each example of a batch like this one."""
        kept = read_labels(outputs, targets, self.name, KINDS)
        parts = (kept.scores, kept.targets, *([] if kept.counted is None else [kept.counted]))
        return sum(part.nbytes for part in parts) / len(targets)

    def start(self, device: torch.device) -> Scores | None:
        return None

    def update(self, state: Scores | None, outputs: Tensor, targets: Tensor) -> Scores:
        new = read_labels(outputs, targets, self.name, KINDS)
        old = state or Scores(new.kind, [], [], [])
        counted = [] if new.counted is None else [new.counted]
        return Scores(new.kind, [*old.scores, new.scores], [*old.targets, new.targets], [*old.counted, *counted])

    def reduce(self, state: Scores | None, ranks: Ranks) -> Scores:
        if ranks.size == 1 and state is not None:
            return state
        own = None if state is None else state.labels()
        code = -1 if own is None else KINDS.index(own.kind)
        kind = KINDS[int(ranks.maximum(torch.tensor(code, device=ranks.device)))]
        scores = gather_unpadded(None if own is None else own.scores, ranks)
        targets = gather_unpadded(None if own is None else own.targets, ranks)
        counted = gather_unpadded(None if own is None else own.counted, ranks) if kind == "multilabel" else []
        return Scores(kind, scores, targets, counted)

    def value(self, state: Scores) -> float:
        each = torch.tensor(
            [self.of_scores(*of_class) for of_class in positive_scores(state.labels())], dtype=torch.float64
        )
        known = each[~each.isnan()]  # classes with both positive and negative examples
        return float(known.mean()) if len(known) else torch.nan


def auroc(scores: Tensor, positive: Tensor) -> float:
    """Probability that a positive example scores above a negative one, ties counting half; nan without both."""
    total = int(positive.sum())
    rest = len(positive) - total
    if not total or not rest or bool(scores.isnan().any()):
        return torch.nan
    hits, misses = _by_score(scores, positive)
    below = misses.cumsum(0) - misses
    return float((hits * (2 * below + misses)).sum().double() / (2 * total * rest))


def average_precision(scores: Tensor, positive: Tensor) -> float:
    """Sum over thresholds of the precision times the gain in recall, without interpolation; nan without positives."""
    total = int(positive.sum())
    if not total or bool(scores.isnan().any()):
        return torch.nan
    hits, misses = (counts.flip(0) for counts in _by_score(scores, positive))  # the largest score first
    found = hits.cumsum(0)
    precision = found.double() / (found + misses.cumsum(0)).double()
    return float((precision * hits.double()).sum() / total)


def _by_score(scores: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """Positive and negative examples at each distinct score, in ascending order."""
    distinct, place = torch.unique(scores, return_inverse=True)
    counts = torch.bincount(2 * place + positive.long(), minlength=2 * len(distinct)).view(-1, 2)
    return counts[:, 1], counts[:, 0]


RANKING_METRICS = (RankingMetric("auroc", auroc), RankingMetric("average_precision", average_precision))
