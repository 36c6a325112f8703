"""A trial's parts built and tried on the driver, so that what cannot work is rejected before anything starts (P19)."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from harness.datasets.examples import Batch, Examples, Splits
from harness.objectives.objective import IGNORED
from harness.plan.errors import UserError
from harness.plan.execution import Speed
from harness.plan.gradient_noise import NoiseScale
from harness.plan.imports import user_code
from harness.plan.instantiate import misfit
from harness.plan.settings import Averaging, Settings, fingerprint
from harness.plan.trial import PlannedTrial
from harness.train.adascale import check_gain
from harness.train.batch_norm import batch_norms
from harness.train.evaluation import Evaluator
from harness.train.excerpt import First
from harness.train.kept_state import History, remedy
from harness.train.learner import Learner
from harness.train.loss_check import check_coupling, check_loss
from harness.train.meta_build import can_build_on_meta
from harness.train.metric_checks import check_metrics
from harness.train.model_copy import copy_model
from harness.train.precision import DTYPES
from harness.train.speed import check_speed
from harness.train.subject import Subject, difference, listed, tensors_in
from harness.train.world import World

GROUP = 2  # examples of a batch-norm group here, whatever the span: one alone has no variance
EXAMPLES = 2 * GROUP  # of a micro-batch
EVALUATED = 3  # validation and test examples, in batches of GROUP, of which the last is not full
CALLS = 2  # between two that must give the same
TOLERANCE = 1e-4  # relative, of those two


def rehearse(planned: Sequence[PlannedTrial], splits: Splits, speed: Speed, rejects_state: bool = True) -> None:
    """Build model, parameter groups and optimizer of each kind of trial as a worker would; where trials run on CPUs,
    also make an update with augmented training examples and evaluate a few others, with the weights and their average
    (a model for GPUs may have no kernels here). Nothing is compiled. `rejects_state`: whether a model may
    not depend on earlier calls through an attribute (P33).

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
        if p.topology.device != "cpu" or not splits.is_loaded:
            continue
        with torch.random.fork_rng(devices=[]):
            _train(learner, splits)
            _evaluate(learner)
            model = fingerprint({"model": dict(settings.model), "dataset": dict(settings.dataset)})
            if rejects_state and model not in without_state:
                _check_state(learner)
                without_state.add(model)


@contextmanager
def _named(settings: Settings, failed: str) -> Iterator[None]:
    """Whatever fails in the block becomes one line; `failed`: what the model then cannot be."""
    model, dataset = settings.model["_target_"], settings.dataset["_target_"]

    def reason() -> str | None:
        if "uninitialized parameter" in str(sys.exc_info()[1]):
            return f"model {model} has lazy layers, whose size is not known before the first batch: use others"
        return misfit("optimizer", settings.optimizer) or misfit("model", settings.model)

    with user_code(f"model {model} cannot be {failed} on {dataset}", reason):
        yield


def _build(planned: PlannedTrial, splits: Splits, speed: Speed) -> Learner:
    """A learner for few examples: batch-norm groups are small."""
    settings, topology = planned.trial.arm.settings, planned.topology
    # A model that is split because it is large, and built on meta, may not fit on this machine.
    has_shapes_only = topology.sharding == "full" and topology.device != "cpu" and can_build_on_meta(settings.model)
    host, dtype = torch.device("cpu"), DTYPES[topology.precision]
    world = World(0, 1, torch.device("meta") if has_shapes_only else host)
    with _named(settings, f"trained with {settings.optimizer['_target_']}"):
        check_speed(settings, topology, speed)
        if settings.batch_norm.span != "none":
            small = {"span": "ghost", "span_examples": GROUP, "statistics_examples": GROUP}
            settings = replace(settings, batch_norm=replace(settings.batch_norm, **small))
        splits = replace(
            splits,
            train=splits.train.to(host, dtype),
            validation=_first(splits.validation).to(host, dtype),
            test=_first(splits.test).to(host, dtype),
        )
        here = replace(speed, compile=False, gradient_compression=False)
        return Learner(settings, planned.trial.seed, topology, world, splits, here)


def _first(examples: Examples) -> Examples:
    """The first examples, so many that one of them has a target that counts."""
    targets, count = getattr(examples, "targets", None), EVALUATED
    if isinstance(targets, Tensor):
        counted = (targets != IGNORED).flatten(1).any(1) if targets.dim() > 1 else targets != IGNORED
        count = max(count, int(counted.nonzero()[0, 0]) + 1) if counted.any() else count
    return First(examples, min(count, len(examples)))


def _train(learner: Learner, splits: Splits) -> None:
    """Make one update of two micro-batches. Raises UserError if augmentation, model, loss or optimizer fails."""
    settings = learner.settings
    indices = torch.arange(2 * EXAMPLES, device=learner.world.device) % settings.train_examples
    drawn = torch.stack([indices, torch.zeros_like(indices)]).view(2, 2, EXAMPLES)
    with user_code(f"training examples of {settings.dataset['_target_']} cannot be read"):
        batch = learner.loader.batch(*drawn[:, 0])
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
        outputs, targets = _few_outputs(learner)
        _check_classes(learner, splits, outputs, targets)
        check_loss(learner, batch)
        check_metrics(settings, outputs, targets, splits)
        if learner.topology.sharding == "full":
            learner.check_gradients(EXAMPLES)
        learner.update(0, drawn, last=True)


def sample_outputs(planned: PlannedTrial, splits: Splits, speed: Speed) -> Any:
    """Outputs of the untrained model for a few examples; None where the trial needs a GPU."""
    if planned.topology.device != "cpu":
        return None
    with torch.random.fork_rng(devices=[]):
        return _few_outputs(_build(planned, splits, speed))[0]


@torch.no_grad()
def _few_outputs(learner: Learner) -> tuple[Any, Any]:
    """Outputs and targets of the first training examples, as they are without augmentation."""
    batch = _few(learner)
    return learner.outputs(learner.model, batch), batch.targets


def _few(learner: Learner) -> Batch:
    return learner.splits.train.batch(torch.arange(EXAMPLES) % learner.settings.train_examples)


def _check_classes(learner: Learner, splits: Splits, outputs: Any, targets: Any) -> None:
    """Raises UserError for a class index of any example that has no output, as far as targets are one tensor."""
    loss, classes = learner.loss, learner.loss.classes(outputs, targets)
    if classes is None:
        return
    for split, kind in (("train", "training"), ("validation", "validation"), ("test", "test")):
        targets = getattr(getattr(splits, split), "targets", None)
        if not isinstance(targets, Tensor) or targets.is_floating_point():
            continue
        wrong = ((targets < 0) & (targets != loss.ignore_index)) | (targets >= classes)
        if wrong.any():
            row, found = int(wrong.nonzero()[0, 0]), targets[wrong][0].item()
            raise UserError(
                f"dataset {learner.settings.dataset['_target_']}: class {found} of {kind} example {row} has no "
                f"output, because the model's {classes} are for classes 0 to {classes - 1}: renumber the classes, or "
                f"give the model more outputs ({loss.ignore_index} marks what does not count)"
            )


def _evaluate(learner: Learner) -> None:
    """Evaluate the weights and their average on a few validation and test examples, as at the end of a trial."""
    with _named(learner.settings, "evaluated"):
        check_coupling(learner, _few(learner))
        evaluator = Evaluator(learner, GROUP)
        evaluator.validation_scores()
        evaluator.evaluate(learner.splits.test, learner.settings.averaging.decide_on == "averaged")
        if learner.average is not None:
            _check_copy(learner)


def _check_copy(learner: Learner) -> None:
    """P33. Raises UserError unless a copy of the model computes with its own weights, as the average has to."""
    copy, model = copy_model(learner.model).eval(), learner.model.eval()
    batch = learner.splits.validation.batch(torch.arange(1, device=learner.world.device))

    def outputs(module: nn.Module) -> list[Tensor]:
        learner.seed_random(0)
        return tensors_in(learner.outputs(module, batch))

    with torch.no_grad():
        for theirs in copy.parameters():
            theirs.add_(torch.randn_like(theirs) * theirs.std(correction=0))
        of_copy = outputs(copy)
        for theirs, mine in zip(copy.parameters(), model.parameters(), strict=True):
            mine.copy_(theirs)
        of_model = outputs(model)
    model.train()
    if difference(of_copy, of_model) > TOLERANCE:
        raise UserError(
            f"model {learner.settings.model['_target_']} has no copy that computes with its own weights, so their "
            "average cannot be evaluated: call layers as attributes of self, not through a lambda, a closure or a "
            "global that holds them"
        )


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
    parts = ("dataset", "model", "loss", "metrics", "batch_norm", "averaging", "parameter_groups")
    same = {key: values[key] for key in parts}
    return fingerprint({**same, "optimizer": optimizer})
