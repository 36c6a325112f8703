"""An evaluation takes as many examples at a time as its outputs leave room for."""

from dataclasses import replace
from threading import Event

import pytest
import torch
from small_trials import MLP, WITHOUT_BATCH_NORM, topology
from torch import Tensor

from harness.datasets.digits import Digits
from harness.datasets.examples import Batch
from harness.train import evaluation
from harness.train.evaluation import Evaluator, ahead
from harness.train.learner import Learner
from harness.train.world import World


def scores_and_sizes(classes: int) -> tuple[dict[str, float], list[int]]:
    """The scores of an untrained model, and how many examples each forward pass took."""
    settings = replace(WITHOUT_BATCH_NORM, model={**MLP, "classes": classes})
    splits = Digits(256, 70, 50).load()
    device = torch.device("cpu")
    splits = replace(splits, **{k: getattr(splits, k).to(device, torch.float64) for k in ("train", "validation")})
    learner = Learner(settings, 0, topology(settings, precision="float64"), World(0, 1, device), splits)
    sizes: list[int] = []
    learner.model.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    return Evaluator(learner, 1024).evaluate(splits.validation, averaged=False), sizes


class OnHost:
    """The numbers 0 to 9, whose second batch must be asked for before the first one is used."""

    def __init__(self) -> None:
        self.second = Event()

    def __len__(self) -> int:
        return 10

    def to(self, device: torch.device, dtype: torch.dtype) -> "OnHost":
        return self

    def batch(self, index: Tensor) -> Batch:
        return self.deliver(self.gather(index, False), index)

    def gather(self, index: Tensor, pinned: bool) -> Batch:
        if index[0] > 0:
            self.second.set()
        return Batch(index, index)

    def deliver(self, gathered: Batch, index: Tensor) -> Batch:
        assert self.second.wait(10)
        return gathered


def test_the_next_examples_are_read_while_the_device_computes():
    batches = ahead(OnHost(), [range(4), range(4, 8), range(8, 10)], torch.device("cpu"))
    assert [batch.inputs.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert list(ahead(OnHost(), [], torch.device("cpu"))) == []


def test_small_outputs_take_the_batch_that_is_asked_for():
    assert scores_and_sizes(10)[1] == [1, 70]  # one example tells the size of the outputs


def test_large_outputs_take_several_passes_and_the_same_scores(monkeypatch: pytest.MonkeyPatch):
    expected, _ = scores_and_sizes(5000)
    monkeypatch.setattr(evaluation, "OUTPUT_BYTES", 30 * 5000 * 8)
    found, sizes = scores_and_sizes(5000)
    assert sizes == [1, 30, 30, 10]
    assert found == pytest.approx(expected, abs=1e-12)
