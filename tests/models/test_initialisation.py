"""Initial weights have the variance their paper asks for."""

from typing import TypeVar

import pytest
import torch
from torch import nn

from harness.models.initialisation import initialise
from harness.plan.errors import UserError

Layer = TypeVar("Layer", bound=nn.Module)


def drawn(layer: Layer, init: str) -> Layer:
    torch.manual_seed(0)
    initialise(layer, init)
    return layer


def test_he_draws_a_variance_of_two_over_fan_in():
    convolution = drawn(nn.Conv2d(64, 128, 3), "he")
    assert convolution.weight.var().item() == pytest.approx(2 / (64 * 9), rel=0.02)
    assert drawn(nn.Linear(400, 300), "he").weight.var().item() == pytest.approx(2 / 400, rel=0.02)


def test_xavier_draws_uniformly_within_its_bound():
    weight = drawn(nn.Linear(400, 200), "xavier").weight
    bound = (6 / 600) ** 0.5
    assert 0.999 * bound < weight.abs().max().item() <= bound
    assert weight.var().item() == pytest.approx(bound**2 / 3, rel=0.02)


def test_biases_start_at_zero_and_norms_stay_as_they_are():
    norm = nn.BatchNorm2d(2)
    model = drawn(nn.Sequential(nn.Conv2d(1, 2, 3), norm, nn.Flatten(), nn.Linear(2, 2)), "he")
    assert not any(p.any() for name, p in model.named_parameters() if name.endswith("bias"))
    assert torch.equal(norm.weight, torch.ones(2))


def test_an_unknown_init_is_refused():
    with pytest.raises(UserError, match=r"unknown model.init 'kaiming': choose one of he, xavier"):
        initialise(nn.Linear(1, 1), "kaiming")
