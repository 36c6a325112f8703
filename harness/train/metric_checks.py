"""Metrics before the start: whether they fit outputs and targets (P19), and what a constant output scores."""

import math
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from harness.datasets.examples import Examples, Splits
from harness.objectives.metrics.constant_guess import constant_guess
from harness.objectives.metrics.labels import kind_of
from harness.objectives.metrics.listed import metrics_of
from harness.objectives.metrics.metric import MeanMetric, Metric
from harness.objectives.metrics.ranking import RankingMetric
from harness.objectives.metrics.regression import R2
from harness.objectives.metrics.scores import for_metrics
from harness.objectives.objective import IGNORED, Objective, objective_named, shapes
from harness.plan.errors import UserError
from harness.plan.imports import user_code
from harness.plan.metrics import METRICS
from harness.plan.settings import Settings

TARGETS = 4096  # validation examples that are gathered for their targets alone
LOSSES_OF_THE_MODEL = ("model_output", "model_losses")  # whose outputs are losses
NUMBERS = 1 << 28  # of all outputs of a constant guess
STATE_BYTES = 4 << 30  # of the scores that auroc and average_precision keep of a split, on every rank


def check_metrics(settings: Settings, outputs: Any, targets: Any, splits: Splits) -> None:
    """Raises UserError, in one line, for a metric that cannot be taken of a batch's outputs and targets, that has no
    value on the validation split, or that would keep too much."""
    if not settings.metrics:
        return
    objective = objective_named(settings.loss)
    taken = for_metrics(objective, outputs, targets)
    for metric in _metrics(objective, settings):
        if isinstance(metric, MeanMetric) and isinstance(metric.sums, str):
            continue  # taken by the loss
        if metric.name in METRICS and not all(isinstance(part, Tensor) for part in taken):
            raise UserError(
                f"metric {metric.name} needs outputs and targets that are one tensor each, not {shapes(outputs)} and "
                f"{shapes(targets)}: take it out of workload.metrics, or write a metric of your own"
            )
        with user_code(f"metric {metric.name} fails"):
            metric.check(*taken)
        if isinstance(metric, RankingMetric):
            _check_memory(metric, *taken, max(len(splits.validation), len(splits.test)))
        if isinstance(metric, RankingMetric | R2):
            _check_targets(metric, taken[0], _targets(splits.validation, objective, len(splits.validation)), splits)


def _check_targets(metric: Metric, outputs: Tensor, targets: Tensor, splits: Splits) -> None:
    if len(targets) == len(splits.validation) and not _differ(metric, outputs, targets):
        raise UserError(
            f"metric {metric.name} has no value on the validation split, whose targets are all the same: choose "
            "another metric, or a split with different targets"
        )


def _check_memory(metric: RankingMetric, outputs: Tensor, targets: Tensor, examples: int) -> None:
    needed = metric.bytes_per_example(outputs, targets) * examples
    if needed > STATE_BYTES:
        raise UserError(
            f"metric {metric.name} would keep the scores of {examples:,} examples, {needed / 1e9:.1f} GB on every "
            f"rank; the limit is {STATE_BYTES / 1e9:.1f} GB: use a smaller validation and test split, or another metric"
        )


def _differ(metric: Metric, outputs: Tensor, targets: Tensor) -> bool:
    """Whether the targets differ: in every column of a regression, in some label, or anywhere."""
    by_label = kind_of(outputs, targets[: len(outputs)]) == "multilabel"
    columns = targets.reshape(-1, targets.shape[-1] if by_label else 1)
    if isinstance(metric, R2):
        columns = targets.reshape(len(targets), -1)
    differ = [len(column[column != IGNORED].unique()) > 1 for column in columns.unbind(1)]
    return all(differ) if isinstance(metric, R2) else any(differ)


def constant_scores(settings: Settings, outputs: Any, splits: Splits) -> tuple[dict[str, float], int]:
    """What a constant output scores on the validation split, by metric, and on how many of its examples; without those
    of which it cannot be said.

    `outputs` [k, ...]: the model's for some examples, of which only the shape counts.
    """
    targets = splits.validation.batch(torch.tensor([0])).targets
    if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor)) or settings.loss in LOSSES_OF_THE_MODEL:
        return {}, 0
    found: dict[str, float] = {}
    objective = objective_named(settings.loss).to(torch.device("cpu"), torch.float64, torch.float64)
    targets = _targets(splits.validation, objective, max(1, NUMBERS // max(1, outputs[0].numel())))
    for metric in _metrics(objective, settings):
        with suppress(Exception):  # a loss or metric of the user's own may need more than outputs of the right shape
            found[metric.name] = constant_guess(objective, metric, outputs, targets)
    return {name: score for name, score in found.items() if math.isfinite(score)}, len(targets)


def _metrics(objective: Objective, settings: Settings) -> list[Metric]:
    return metrics_of(objective, settings.loss, settings.metrics)


def _targets(examples: Examples, objective: Objective, most: int) -> Tensor:
    """Targets of a split, of at most `most` examples evenly spread over it (TARGETS where each has to be gathered)."""
    held = getattr(examples, "targets", None)
    if isinstance(held, Tensor) and len(held) == len(examples):
        held = held[:: -(-len(examples) // most)]
    else:
        index = torch.arange(0, len(examples), -(-len(examples) // min(most, TARGETS)))
        parts = [examples.batch(part).targets for part in index.split(64)]
        held = torch.cat([part for part in parts if isinstance(part, Tensor)])
    return for_metrics(objective, None, held)[1]
