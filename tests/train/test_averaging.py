"""P13: the average of the weights has a half-life in examples and is unbiased from the first update on."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from harness.train.averaging import AveragedModel, decay_per_step

WEIGHTS = st.lists(st.floats(-10, 10), min_size=1, max_size=40)


def averaged(weights: list[float], decay: float) -> float:
    """The average after the model's one weight took these values, one an update."""
    model = nn.Linear(1, 1, bias=False).double()
    average = AveragedModel(model, decay)
    for weight in weights:
        nn.init.constant_(model.weight, weight)
        average.update()
    return next(average.module.parameters()).item()


@given(WEIGHTS, st.floats(0, 0.999))
def test_the_average_is_the_normalised_sum_of_decayed_weights(weights, decay):
    shares = [decay ** (len(weights) - 1 - i) for i in range(len(weights))]
    expected = sum(share * weight for share, weight in zip(shares, weights, strict=True)) / sum(shares)
    assert averaged(weights, decay) == pytest.approx(expected, abs=1e-9)


@given(st.floats(-10, 10), st.integers(1, 40), st.floats(0, 0.9999))
def test_weights_that_stand_still_are_their_own_average_from_the_first_update_on(weight, updates, decay):
    assert averaged([weight] * updates, decay) == pytest.approx(weight, abs=1e-9)


@given(st.integers(1, 512), st.integers(1, 64))
def test_a_memory_halves_after_its_half_life_in_examples_at_every_batch_size(total_batch_size, updates):
    decay = decay_per_step(total_batch_size * updates, total_batch_size)
    assert decay**updates == pytest.approx(0.5)


def test_the_average_owns_its_weights_and_asks_for_no_gradient():
    model = nn.Linear(2, 2)
    average = AveragedModel(model, 0.9)
    before = [p.clone() for p in model.parameters()]
    assert not any(p.requires_grad for p in average.module.parameters())
    with torch.no_grad():
        for p in average.module.parameters():
            p.add_(1.0)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
