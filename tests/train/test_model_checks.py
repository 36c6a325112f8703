"""The doctor names the cause and the place of every planted fault, and passes models that only look suspicious."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from faulty_models import FAULTY
from small_trials import DIGITS, WITHOUT_BATCH_NORM, topology
from sound_models import SOUND
from torch import Tensor

from harness.datasets.examples import Batch, Splits, TensorExamples
from harness.plan.instantiate import instantiate
from harness.plan.settings import Averaging
from harness.train.check import Check
from harness.train.model_checks import examine_model
from harness.train.subject import Subject
from harness.train.worker import Worker

IN_FAST_SUITE = {"BatchMean", "RunningAttribute", "FrozenLater", "DropoutWithoutFlag", "ClampingHook", "Unused"}
IN_FAST_SUITE |= {"FunctionalDropout", "OldWeightNorm", "CountsBatches", "LazyMask", "Attention"}


@pytest.fixture(scope="module")
def splits(worker: Worker) -> Splits:
    """In float64; a worker has set the number of threads to 1."""
    loaded: Splits = instantiate(DIGITS).load()
    cpu = torch.device("cpu")
    parts = {name: getattr(loaded, name).to(cpu, torch.float64) for name in ("train", "validation", "test")}
    return replace(loaded, **parts)


def examined(splits: Splits, model: str = "sound_models.Plain", **changes: Any) -> list[Check]:
    settings = replace(WITHOUT_BATCH_NORM, model={"_target_": model}, averaging=Averaging(), **changes)
    return list(examine_model(Subject(settings, topology(settings, precision="float64"), splits, 1e-9)))


def in_suites(models: list[type]) -> list[Any]:
    fast = [model.__name__ in IN_FAST_SUITE for model in models]
    marks = [() if is_fast else pytest.mark.long for is_fast in fast]
    return [pytest.param(model, id=model.__name__, marks=mark) for model, mark in zip(models, marks, strict=True)]


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("model", in_suites(FAULTY))
def test_a_planted_fault_is_named_with_its_cause(model, splits):
    """The docstring of each faulty model gives the check and the words that its line must contain."""
    name, _, words = str(model.__doc__).partition(": ")
    checks = examined(splits, f"faulty_models.{model.__name__}")
    lines = [check.detail for check in checks if check.name == name and (check.is_note or not check.passed)]
    assert any(all(word in line for word in words.split(" | ")) for line in lines), list(map(str, checks))
    assert all("\n" not in str(check) for check in checks)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize("model", in_suites(SOUND))
def test_a_model_that_only_looks_suspicious_passes(model, splits):
    checks = examined(splits, f"sound_models.{model.__name__}")
    assert [str(check) for check in checks if not check.passed] == []
    assert len(checks) >= 6


def test_at_least_20_faults_are_planted_and_12_models_are_sound():
    assert len(FAULTY) >= 20
    assert len(SOUND) >= 12


def mean_of_a_batch(outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    return torch.nn.functional.cross_entropy(outputs, targets), len(targets)


def test_a_loss_that_is_a_mean_is_named(splits):
    loss = {"_target_": f"{__name__}.{mean_of_a_batch.__name__}"}
    (line,) = [check.detail for check in examined(splits, loss=loss) if not check.passed]
    assert "the loss of a batch is not the sum over its examples" in line


class Rereads(TensorExamples):
    def batch(self, index: Tensor) -> Batch:
        inputs, targets = super().batch(index)
        assert isinstance(inputs, Tensor)
        return Batch(inputs + torch.rand(()), targets)


class Ranks(TensorExamples):
    def batch(self, index: Tensor) -> Batch:
        inputs, targets = super().batch(index)
        assert isinstance(inputs, Tensor)
        return Batch(inputs * torch.arange(len(index)).view(-1, *[1] * (inputs.dim() - 1)), targets)


@pytest.mark.parametrize(
    ("kind", "words"), [(Rereads, "change from one read to the next"), (Ranks, "depends on which others are read")]
)
def test_examples_that_are_not_a_function_of_their_index_are_named(kind, words, splits):
    train = kind(splits.train.inputs, splits.train.targets)
    lines = [check.detail for check in examined(replace(splits, train=train)) if check.name == "data"]
    assert any(words in line for line in lines)


def augment_by(change: Callable[[Tensor, Tensor], Tensor]) -> Any:
    def augment(batch: Batch, seed: int, epoch: Tensor, example: Tensor, group_size: int) -> Batch:
        assert isinstance(batch.inputs, Tensor)
        return Batch(change(batch.inputs, example), batch.targets)

    return augment


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda inputs, example: inputs + torch.rand_like(inputs), "draws random numbers of its own"),
        (lambda inputs, example: inputs - inputs.mean(0), "changes an example with the batch"),
        (lambda inputs, example: inputs + example.view(-1, *[1] * (inputs.dim() - 1)), None),
    ],
)
def test_an_augmentation_that_is_not_a_function_of_the_example_is_named(change, words, splits):
    lines = [c.detail for c in examined(replace(splits, augment=augment_by(change))) if not c.passed]
    assert not lines if words is None else len(lines) == 1 and words in lines[0]
