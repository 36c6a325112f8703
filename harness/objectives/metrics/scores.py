"""All metrics of one set of examples, in one pass and one reduction of all means."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from harness.objectives.cross_entropy import CrossEntropy
from harness.objectives.metrics.metric import MeanMetric, Metric, Ranks
from harness.objectives.objective import Measured, Objective
from harness.plan.errors import UserError


class Scores:
    """Means that rest on the same sums share them."""

    def __init__(self, objective: Objective, metrics: Sequence[Metric], ranks: Ranks) -> None:
        self.objective = objective
        self.metrics = metrics
        self.ranks = ranks
        sums = dict.fromkeys(metric.sums for metric in metrics if isinstance(metric, MeanMetric))
        self._sums = {of: torch.zeros(2, dtype=torch.float64, device=ranks.device) for of in sums}
        self._states = {m.name: m.start(ranks.device) for m in metrics if not isinstance(m, MeanMetric)}

    def add(self, outputs: Any, targets: Any) -> None:
        """The examples of one forward pass; `outputs`: what the loss reads of the model's."""
        by_name = self._of_objective(outputs, targets)
        taken = for_metrics(self.objective, outputs, targets)
        for of in self._sums:
            sums = by_name[of] if isinstance(of, str) else of(*taken)
            self._sums[of] += torch.stack([self._as_float64(part) for part in sums])
        for metric in self.metrics:
            if not isinstance(metric, MeanMetric):
                self._states[metric.name] = metric.update(self._states[metric.name], *taken)

    def _as_float64(self, part: Tensor | float) -> Tensor:
        part = part.detach() if isinstance(part, Tensor) else torch.tensor(part)
        return part.to(self.ranks.device, torch.float64)

    def _of_objective(self, outputs: Any, targets: Any) -> dict[str, Measured]:
        names = {of for of in self._sums if isinstance(of, str)}
        if names <= {"loss"}:
            return {"loss": self.objective.measure(outputs, targets)} if names else {}
        return self.objective.scores(outputs, targets)

    def values(self, examples: int) -> dict[str, float]:
        """Over all ranks, which must call it together; UserError where none of the `examples` counts."""
        totals = self.ranks.sum(torch.stack([*self._sums.values()])).tolist() if self._sums else []
        sums = dict(zip(self._sums, totals, strict=True))
        if "loss" in sums and not sums["loss"][1]:
            raise UserError(f"none of these {examples} examples has a target that counts: make the split larger")
        found = {}
        for metric in self.metrics:
            if isinstance(metric, MeanMetric):
                found[metric.name] = metric.value(*sums[metric.sums])
            else:
                found[metric.name] = metric.value(metric.reduce(self._states[metric.name], self.ranks))
        return found


def for_metrics(objective: Objective, outputs: Any, targets: Any) -> tuple[Any, Any]:
    """Outputs and targets as metrics count them: class probabilities as classes, probabilities of a label as logits."""
    if isinstance(objective, CrossEntropy) and isinstance(targets, Tensor) and targets.is_floating_point():
        return outputs, targets.argmax(1)
    if takes_probabilities(objective) and isinstance(outputs, Tensor):
        return outputs.logit(), targets
    return outputs, targets


def takes_probabilities(objective: Objective) -> bool:
    """Whether the outputs are probabilities of labels (torch's BCELoss), where other losses take logits."""
    return getattr(objective, "name", "") == "bce"
