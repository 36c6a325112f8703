"""A trial's parts built once on the driver, so that what cannot work is rejected before anything starts (P19)."""

from collections.abc import Sequence
from dataclasses import replace

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
from harness.train.loss_check import check_loss
from harness.train.precision import DTYPES
from harness.train.speed import check_speed
from harness.train.world import World

LEAST_EXAMPLES = 4  # batch norm over a single example has no variance; half of a batch is tried too


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
        count = learner.group if learner.group > 1 else LEAST_EXAMPLES
        batch = splits.train.batch(torch.arange(count) % len(splits.train))
        with torch.random.fork_rng(devices=[]):
            check_loss(learner, batch)
    return learner


def _kind(settings: Settings) -> str:
    """Equal for settings whose parts are the same except for their LR."""
    optimizer = {key: value for key, value in settings.optimizer.items() if key != "lr"}
    values = settings.to_json()
    same = {key: values[key] for key in ("dataset", "model", "loss", "batch_norm", "averaging", "parameter_groups")}
    return fingerprint({**same, "optimizer": optimizer})
