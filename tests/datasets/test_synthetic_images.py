"""Synthetic images are a function of their index, balanced, and exactly as hard as their noise says."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.datasets.synthetic_images import SyntheticImages
from harness.plan.errors import UserError

SMALL = SyntheticImages(classes=4, size=8, train=1000, validation=40, test=40).load()


@settings(deadline=None)
@given(st.lists(st.integers(0, 999), min_size=1, max_size=8))
def test_an_example_does_not_depend_on_its_batch(index):
    together = SMALL.train.batch(torch.tensor(index)).inputs
    alone = torch.cat([SMALL.train.batch(torch.tensor([i])).inputs for i in index])
    assert torch.equal(together, alone)


def test_classes_have_equal_shares_and_images_variance_1():
    inputs, targets = SMALL.train.batch(torch.arange(1000))
    assert targets.bincount().tolist() == [250] * 4
    assert inputs.mean().item() == pytest.approx(0, abs=0.02)
    assert inputs.var().item() == pytest.approx(1, rel=0.02)


def test_splits_show_different_images_and_do_not_change_with_each_others_size():
    inputs = [part.batch(torch.arange(40)).inputs for part in (SMALL.train, SMALL.validation, SMALL.test)]
    assert not any(torch.equal(inputs[a], inputs[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    larger = SyntheticImages(classes=4, size=8, train=10**12, validation=40, test=40).load()
    assert len(larger.train) == 10**12
    assert torch.equal(larger.validation.batch(torch.arange(40)).inputs, inputs[1])
    assert larger.train.batch(torch.tensor([10**12 - 1])).targets.tolist() == [3]


def test_floating_precision_follows_the_run():
    index = torch.arange(4)
    double = SMALL.train.to(torch.device("cpu"), torch.float64).batch(index).inputs
    assert double.dtype == torch.float64
    assert torch.allclose(double.float(), SMALL.train.batch(index).inputs, atol=1e-5)


@pytest.mark.parametrize("noise", [8.0, 16.0])
def test_the_nearest_prototype_errs_as_often_as_the_noise_says(noise):
    def two_classes(noise: float):
        return SyntheticImages(classes=2, size=8, train=20_000, validation=1, test=1, noise=noise).load().train

    prototypes = two_classes(0.0).batch(torch.tensor([0, 1])).inputs.flatten(1)
    inputs, targets = two_classes(noise).batch(torch.arange(20_000))
    middle, direction = prototypes.mean(0), prototypes[1] - prototypes[0]
    scale = math.sqrt(1 + noise**2)  # images are scaled back to variance 1
    guessed = ((inputs.flatten(1) * scale - middle) @ direction > 0).long()
    error = (guessed != targets).double().mean().item()
    expected = 0.5 * math.erfc(direction.norm().item() / (2 * noise) / math.sqrt(2))
    assert error == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 20_000))


def test_the_fingerprint_names_the_arguments():
    def fingerprint(**arguments) -> str:
        return SyntheticImages(**arguments).load().fingerprint

    assert fingerprint() == fingerprint()
    assert len({fingerprint(), fingerprint(noise=4.0), fingerprint(data_seed=1), fingerprint(train=10)}) == 4


@pytest.mark.parametrize("arguments", [{"classes": 1}, {"size": 3}, {"train": 0}, {"noise": -1.0}])
def test_impossible_settings_are_refused(arguments):
    with pytest.raises(UserError, match="synthetic images need"):
        SyntheticImages(**arguments)
