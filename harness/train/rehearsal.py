"""A trial's parts built once on the driver, so that what cannot work is rejected before anything starts (P19)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from harness.datasets.examples import Splits
from harness.plan.errors import UserError
from harness.plan.execution import Speed
from harness.plan.imports import user_code
from harness.plan.instantiate import misfit
from harness.plan.settings import Settings, fingerprint
from harness.plan.trial import PlannedTrial
from harness.train.adascale import check_gain
from harness.train.batch_norm import batch_norms
from harness.train.learner import Learner
from harness.train.metric_checks import check_metrics
from harness.train.precision import DTYPES
from harness.train.speed import check_speed
from harness.train.world import World

LEAST_EXAMPLES = 2  # batch norm over a single example has no variance


def rehearse(planned: Sequence[PlannedTrial], splits: Splits, speed: Speed) -> None:
    """Build model, parameter groups and optimizer of each kind of trial as a worker would; where trials run on CPUs,
    also pass a few training examples through model and loss (a model for GPUs may have no kernels here). Nothing is
    compiled.

    Raises UserError with the reason in one line.
    """
    for p in planned:
        check_gain(p.trial.arm.settings, p.topology)
    kinds = {_kind(p.trial.arm.settings): p for p in planned}
    varies_batch_norm = len({str(p.trial.arm.settings.batch_norm) for p in kinds.values()}) > 1
    for p in kinds.values():
        settings = p.trial.arm.settings
        with user_code(
            f"model {settings.model['_target_']} cannot be trained with {settings.optimizer['_target_']} on "
            f"{settings.dataset['_target_']}",
            lambda settings=settings: misfit("optimizer", settings.optimizer) or misfit("model", settings.model),
        ):
            learner = _rehearse_one(p, splits, speed)
        if varies_batch_norm and not batch_norms(learner.model):
            raise UserError(
                f"the arms differ in workload.batch_norm, but model {settings.model['_target_']} has no batch norm: "
                "choose a model with batch norm, or another experiment"
            )


def _rehearse_one(planned: PlannedTrial, splits: Splits, speed: Speed) -> Learner:
    settings, topology = planned.trial.arm.settings, planned.topology
    world = World(0, 1, torch.device("cpu"))
    splits = replace(splits, train=splits.train.to(world.device, DTYPES[topology.precision]))
    check_speed(settings, topology, speed)
    eager = Speed(channels_last=speed.channels_last, activation_checkpointing=speed.activation_checkpointing)
    learner = Learner(settings, planned.trial.seed, topology, world, splits, eager)
    if topology.device == "cpu" and splits.is_loaded:
        outputs, targets = _few_outputs(learner)
        learner.loss.check(outputs, targets)
        check_metrics(settings, outputs, targets, splits)
    return learner


def sample_outputs(planned: PlannedTrial, splits: Splits, speed: Speed) -> Any:
    """Outputs of the untrained model for a few examples; None where the trial needs a GPU."""
    return None if planned.topology.device != "cpu" else _few_outputs(_rehearse_one(planned, splits, speed))[0]


@torch.no_grad()
def _few_outputs(learner: Learner) -> tuple[Any, Any]:
    """Outputs and targets of the first training examples."""
    train = learner.splits.train
    batch = train.batch(torch.arange(max(LEAST_EXAMPLES, learner.group)) % len(train))
    with torch.random.fork_rng(devices=[]):
        return learner.outputs(learner.model, batch), batch.targets


def _kind(settings: Settings) -> str:
    """Equal for settings whose parts are the same except for their LR."""
    optimizer = {key: value for key, value in settings.optimizer.items() if key != "lr"}
    values = settings.to_json()
    parts = ("dataset", "model", "loss", "metrics", "batch_norm", "averaging", "parameter_groups")
    same = {key: values[key] for key in parts}
    return fingerprint({**same, "optimizer": optimizer})
