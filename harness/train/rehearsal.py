"""A trial's parts built and tried on the driver, so that what cannot work is rejected before anything starts (P19)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from harness.datasets.examples import Batch, Examples, Splits
from harness.plan.errors import UserError
from harness.plan.execution import Speed
from harness.plan.gradient_noise import NoiseScale
from harness.plan.imports import user_code
from harness.plan.settings import Averaging, Settings, fingerprint
from harness.plan.trial import PlannedTrial
from harness.train.adascale import check_gain
from harness.train.batch_norm import batch_norms
from harness.train.evaluation import Evaluator
from harness.train.excerpt import First
from harness.plan.instantiate import misfit
from harness.train.kept_state import History, remedy
from harness.train.learner import Learner
from harness.train.losses import IGNORED
from harness.train.precision import DTYPES
from harness.train.speed import check_speed
from harness.train.subject import Subject, listed
from harness.train.world import World

GROUP = 2  # examples of a batch-norm group here, whatever the span: one alone has no variance
EXAMPLES = 2 * GROUP  # of a micro-batch
EVALUATED = 3  # validation and test examples, in batches of GROUP, of which the last is not full
CALLS = 2  # between two that must give the same
TOLERANCE = 1e-4  # relative, of those two


def rehearse(planned: Sequence[PlannedTrial], splits: Splits, speed: Speed) -> None:
    """Build model, parameter groups and optimizer of each kind of trial as a worker would; where trials run on CPUs,
    also make an update with augmented training examples and evaluate a few others, with the weights and their average
    (a model for GPUs may have no kernels here). Nothing is compiled.

    Raises UserError with the reason in one line.
    """
    for p in planned:
        check_gain(p.trial.arm.settings, p.topology)
    kinds = {_kind(p.trial.arm.settings): p for p in planned}
    varies_batch_norm = len({str(p.trial.arm.settings.batch_norm) for p in kinds.values()}) > 1
    without_state: set[str] = set()  # models that have passed `_check_state`
    for p in kinds.values():
        settings = p.trial.arm.settings
        learner = _build(p, splits, speed)
        if varies_batch_norm and not batch_norms(learner.model):
            raise UserError(
                f"the arms differ in workload.batch_norm, but model {settings.model['_target_']} has no batch norm: "
                "choose a model with batch norm, or another experiment"
            )
        if p.topology.device != "cpu":
            continue
        with torch.random.fork_rng(devices=[]):
            _train(learner)
            _evaluate(learner)
            model = fingerprint({"model": dict(settings.model), "dataset": dict(settings.dataset)})
            if model not in without_state:
                _check_state(learner)
                without_state.add(model)


@contextmanager
def _named(settings: Settings, failed: str) -> Iterator[None]:
    """Whatever fails in the block becomes one line; `failed`: what the model then cannot be."""
    model, dataset = settings.model["_target_"], settings.dataset["_target_"]

    def reason() -> str | None:
        return misfit("optimizer", settings.optimizer) or misfit("model", settings.model)

    with user_code(f"model {model} cannot be {failed} on {dataset}", reason):
        yield


def _build(planned: PlannedTrial, splits: Splits, speed: Speed) -> Learner:
    """A learner for few examples: batch-norm groups are small."""
    settings, topology = planned.trial.arm.settings, planned.topology
    world, dtype = World(0, 1, torch.device("cpu")), DTYPES[topology.precision]
    with _named(settings, f"trained with {settings.optimizer['_target_']}"):
        check_speed(settings, topology, speed)
        if settings.batch_norm.span != "none":
            small = {"span": "ghost", "span_examples": GROUP, "statistics_examples": GROUP}
            settings = replace(settings, batch_norm=replace(settings.batch_norm, **small))
        splits = replace(
            splits,
            train=splits.train.to(world.device, dtype),
            validation=_few(splits.validation).to(world.device, dtype),
            test=_few(splits.test).to(world.device, dtype),
        )
        eager = Speed(channels_last=speed.channels_last, activation_checkpointing=speed.activation_checkpointing)
        return Learner(settings, planned.trial.seed, topology, world, splits, eager)


def _few(examples: Examples) -> Examples:
    return First(examples, min(EVALUATED, len(examples)))


def _train(learner: Learner) -> None:
    """Make one update of two micro-batches. Raises UserError if augmentation, model, loss or optimizer fails."""
    settings = learner.settings
    indices = torch.arange(2 * EXAMPLES, device=learner.world.device) % settings.train_examples
    drawn = torch.stack([indices, torch.zeros_like(indices)]).view(2, 2, EXAMPLES)
    with user_code(f"training examples of {settings.dataset['_target_']} cannot be read"):
        batch = learner.loader.batch(drawn[0, 0])
    with user_code(
        f"the augment of {settings.dataset['_target_']} fails, called as augment(batch, seed, epoch, example, "
        "group_size) with int64 tensors epoch and example"
    ):
        batch = learner.augmented(batch, *drawn[:, 0])
    if not isinstance(batch, Batch):
        given = f"a {type(batch).__name__}"
        raise UserError(
            f"the augment of {settings.dataset['_target_']} must return Batch(inputs, targets), not {given}"
        )
    with _named(settings, f"trained with {settings.optimizer['_target_']}"):
        with torch.no_grad():
            outputs = learner.outputs(learner.model, batch.inputs)
        # The shapes of outputs and targets belong here, before the loss computes with them.
        _check_labels(settings, learner.splits, outputs)
        learner.update(0, drawn, last=True)


def _check_labels(settings: Settings, splits: Splits, outputs: Tensor) -> None:
    """Raises UserError for a class number of any example that has no output, as far as targets are one tensor."""
    if settings.loss != "cross_entropy":
        return
    name, classes = settings.dataset["_target_"], outputs.shape[-1]
    for split in ("train", "validation", "test"):
        examples = getattr(splits, split)
        targets = getattr(examples, "targets", None)
        if not isinstance(targets, Tensor):
            continue
        if targets.is_floating_point() and split != "train":
            raise UserError(
                f"dataset {name}: {split} targets are {targets.dtype} {list(targets.shape)}, but cross_entropy "
                "measures accuracy against class numbers: give int64 targets, such as targets.argmax(-1)"
            )
        wrong = ((targets < 0) & (targets != IGNORED)) | (targets >= classes)
        if not targets.is_floating_point() and wrong.any():
            row = int(wrong.nonzero()[0, 0])
            label = targets[wrong][0].item()
            raise UserError(
                f"dataset {name}: label {label} of {split} example {row} has no output, because the model's "
                f"{classes} outputs are for labels 0 to {classes - 1}: renumber the labels, or give the model more "
                f"outputs ({IGNORED} marks what does not count)"
            )


def _evaluate(learner: Learner) -> None:
    """Evaluate the weights and their average on a few validation and test examples, as at the end of a trial."""
    with _named(learner.settings, "evaluated"):
        evaluator = Evaluator(learner, GROUP)
        evaluator.validation_scores()
        evaluator.evaluate(learner.splits.test, learner.settings.averaging.decide_on == "averaged")


def _check_state(learner: Learner) -> None:
    """P33. Raises UserError if what the model gives depends on earlier calls through an attribute or a global."""
    settings = replace(learner.settings, averaging=Averaging(), noise_scale=NoiseScale())
    with _named(settings, "trained"):
        subject = Subject(settings, learner.topology, learner.splits, TOLERANCE)
        history = History(subject, range(EXAMPLES))
        history.repeat(CALLS)
        causes = history.causes() if history.influenced() else []
    if unkept := [kept for kept in causes if kept.kind != "buffer"]:
        raise UserError(
            f"model {settings.model['_target_']} keeps {listed(map(str, unkept))} from call to call, and its outputs "
            f"depend on it: {remedy(unkept[0])}"
        )


def _kind(settings: Settings) -> str:
    """Equal for settings whose parts are the same except for their LR."""
    optimizer = {key: value for key, value in settings.optimizer.items() if key != "lr"}
    values = settings.to_json()
    same = {key: values[key] for key in ("dataset", "model", "loss", "batch_norm", "averaging", "parameter_groups")}
    return fingerprint({**same, "optimizer": optimizer})
