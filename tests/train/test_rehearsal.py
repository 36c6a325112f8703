"""What cannot be trained or evaluated is rejected on the driver, in one line, before anything starts (P19, P33)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from faulty_models import Base
from small_trials import DIGITS, SMALL, WITHOUT_BATCH_NORM, topology
from torch import Tensor, nn

from harness.datasets.examples import Batch, Splits, TensorExamples
from harness.plan.errors import UserError
from harness.plan.execution import Speed
from harness.plan.instantiate import instantiate
from harness.plan.settings import Settings
from harness.plan.trial import Arm, PlannedTrial, Trial
from harness.train.averaging import AveragedModel
from harness.train.model_copy import copy_model
from harness.train.rehearsal import rehearse

DIGIT_SPLITS: Splits = instantiate(DIGITS).load()


def rehearsed(settings: Settings, splits: Splits = DIGIT_SPLITS) -> None:
    rehearse([PlannedTrial(Trial(Arm("", "", "", 1, 1.0, settings), 0), topology(settings))], splits, Speed())


def rejection(model: type | str = Base, splits: Splits = DIGIT_SPLITS) -> str:
    path = model if isinstance(model, str) else f"{model.__module__}.{model.__name__}"
    with pytest.raises(UserError) as error:
        rehearsed(replace(WITHOUT_BATCH_NORM, model={"_target_": path}), splits)
    assert "\n" not in str(error.value)
    return str(error.value)


def with_augment(augment: Callable[..., Any]) -> Splits:
    return replace(DIGIT_SPLITS, augment=augment)


def test_sound_trials_pass_and_leave_torchs_random_state():
    before = torch.get_rng_state()
    rehearsed(SMALL)
    rehearsed(WITHOUT_BATCH_NORM)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("augment", "words"),
    [
        (lambda batch, seed: batch, "called as augment(batch, seed, epoch, example, group_size)"),
        (lambda batch, *rest: (batch.inputs, batch.targets), "must return Batch(inputs, targets), not a tuple"),
    ],
)
def test_an_augment_with_other_arguments_or_results_is_rejected(augment, words):
    assert words in rejection(splits=with_augment(augment))


def test_the_update_sees_augmented_examples():
    def nothing_left(batch: Batch, *rest: Any) -> Batch:
        assert isinstance(batch.inputs, Tensor)
        return Batch(batch.inputs[..., :4], batch.targets)

    assert "cannot be trained" in rejection(splits=with_augment(nothing_left))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_class_without_an_output_is_found_in_any_example(split):
    examples = getattr(DIGIT_SPLITS, split)
    targets = examples.targets.clone()
    targets[-1] = 10
    changed = replace(DIGIT_SPLITS, **{split: TensorExamples(examples.inputs, targets)})
    kind = "training" if split == "train" else split
    assert f"class 10 of {kind} example {len(targets) - 1} has no output" in rejection(splits=changed)


class FusedHead(Base):
    def forward(self, x: Tensor) -> Any:
        return self.hidden(x), self.head.weight


def test_a_class_without_an_output_is_found_whatever_the_loss():
    train = DIGIT_SPLITS.train
    assert isinstance(train, TensorExamples)
    fused = replace(WITHOUT_BATCH_NORM, model={"_target_": f"{__name__}.FusedHead"}, loss="fused_cross_entropy")
    rehearsed(fused)
    for wrong in (10, -1):
        targets = train.targets.clone()
        targets[-1] = wrong
        with pytest.raises(UserError, match=f"class {wrong} of training example {len(targets) - 1} has no output"):
            rehearsed(fused, replace(DIGIT_SPLITS, train=replace(train, targets=targets)))


def test_targets_that_do_not_count_are_no_classes():
    validation = DIGIT_SPLITS.validation
    assert isinstance(validation, TensorExamples)
    assert isinstance(validation.targets, Tensor)
    targets = validation.targets.clone()
    targets[:40] = -100
    rehearsed(WITHOUT_BATCH_NORM, replace(DIGIT_SPLITS, validation=replace(validation, targets=targets)))


class FailsInEvaluation(Base):
    def forward(self, x: Tensor) -> Tensor:
        assert self.training, "for training only"
        return super().forward(x)


class KeepsAMean(Base):
    def __init__(self) -> None:
        super().__init__()
        self.mean: Any = 0.0

    def forward(self, x: Tensor) -> Tensor:
        h = self.hidden(x)
        self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
        return self.head(h - self.mean)


class HoldsALayerInAClosure(Base):
    def __init__(self) -> None:
        super().__init__()
        head = self.head
        self.last = lambda h: head(h)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.hidden(x))


class CannotBeCopied(Base):
    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        raise RuntimeError("one of a kind")


class Lazy(Base):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.LazyLinear(16)  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (FailsInEvaluation, "cannot be evaluated"),
        (KeepsAMean, "keeps attribute mean from call to call"),
        (HoldsALayerInAClosure, "no copy that computes with its own weights"),
        (CannotBeCopied, "cannot be copied for the average of its weights (RuntimeError: one of a kind)"),
        (Lazy, "has lazy layers"),
    ],
)
def test_a_model_that_no_trial_could_handle_is_rejected(model, words):
    assert words in rejection(model)


@dataclass(frozen=True)
class Normed:
    """A name of one of torch's old-style norms of weights."""

    name: str

    def __call__(self) -> nn.Module:
        model = Base()
        model.body = getattr(nn.utils, self.name)(model.body)
        return model


weight_normed, spectral_normed = Normed("weight_norm"), Normed("spectral_norm")


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize("name", ["weight_normed", "spectral_normed"])
def test_old_norms_of_weights_can_be_averaged_after_training(name):
    rehearsed(replace(WITHOUT_BATCH_NORM, model={"_target_": f"{__name__}.{name}"}))
    model = globals()[name]()
    images = DIGIT_SPLITS.train.batch(torch.arange(4)).inputs
    model(images).sum().backward()
    average = AveragedModel(model, decay=0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    average.update()
    assert torch.allclose(average.module(images), copy_model(model).eval()(images), atol=1e-5)
