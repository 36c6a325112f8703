"""Metrics of a regression: mse, mae and r2, in float64."""

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.objectives.metrics.metric import MeanMetric, Ranks, gather_unpadded, misfit
from harness.objectives.objective import IGNORED

NEEDS = "one number as output for each number of the targets"


def _pairs(outputs: Tensor, targets: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """Outputs and targets in float64, of the targets' shape."""
    longer, shorter = (outputs, targets) if outputs.dim() >= targets.dim() else (targets, outputs)
    if longer.shape not in (shorter.shape, (*shorter.shape, 1)):
        raise misfit(metric, NEEDS, outputs, targets)
    return outputs.reshape(targets.shape).double(), targets.double()


def _mean(name: str, power: int) -> MeanMetric:
    def sums(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | int]:
        values, truth = _pairs(outputs, targets, name)
        error = (values - truth).abs() ** power
        if targets.is_floating_point():
            return error.sum(), error.numel()
        counts = targets != IGNORED
        return (error * counts).sum(), counts.sum()

    return MeanMetric(name, sums, lambda outputs, targets: check_numbers(name, outputs, targets))


def check_numbers(metric: str, outputs: Tensor, targets: Tensor) -> None:
    """UserError unless there is one output for each target."""
    _pairs(outputs, targets, metric)


@dataclass(frozen=True)
class Moments:
    """float64 [4, columns]: count, mean of the targets, sum of their squared deviations, sum of squared errors."""

    table: Tensor

    def merged(self, other: "Moments") -> "Moments":
        """Of both sets (Chan, Golub, LeVeque 1983, eq. 2.1): exact also far from 0, where sums of squares are not."""
        (n, mean, deviation, error), (m, new, more, wrong) = self.table, other.table
        total = (n + m).clamp(min=1)
        deviation = deviation + more + (new - mean) ** 2 * n * m / total
        return Moments(torch.stack([n + m, mean + (new - mean) * m / total, deviation, error + wrong]))


class R2:
    """1 - squared error / squared deviation of the targets, mean over the columns of the targets."""

    name = "r2"

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        check_numbers(self.name, outputs, targets)

    def start(self, device: torch.device) -> Moments | None:
        return None

    def update(self, state: Moments | None, outputs: Tensor, targets: Tensor) -> Moments:
        values, truth = _pairs(outputs, targets, self.name)
        columns = truth[0].numel() if truth.dim() > 1 else 1
        values, truth = values.reshape(-1, columns), truth.reshape(-1, columns)
        counts = torch.ones_like(truth) if targets.is_floating_point() else (truth != IGNORED).double()
        n = counts.sum(0)
        mean = (truth * counts).sum(0) / n.clamp(min=1)
        new = Moments(
            torch.stack([n, mean, ((truth - mean) ** 2 * counts).sum(0), ((values - truth) ** 2 * counts).sum(0)])
        )
        return new if state is None else state.merged(new)

    def reduce(self, state: Moments | None, ranks: Ranks) -> Moments:
        first, *others = gather_unpadded(None if state is None else state.table, ranks)
        reduced = Moments(first)
        for other in others:
            reduced = reduced.merged(Moments(other))
        return reduced

    def value(self, state: Moments) -> float:
        _, _, deviation, error = state.table
        return float((1 - error / deviation).mean()) if bool((deviation > 0).all()) else torch.nan


REGRESSION_METRICS = (_mean("mse", 2), _mean("mae", 1), R2())
