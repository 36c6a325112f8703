"""The quadratic's loss, gradient and start are the numbers of its definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.models.quadratic import Quadratic
from harness.plan.errors import UserError

NUMBERS = st.lists(st.floats(-3, 3), min_size=6, max_size=6).map(lambda x: torch.tensor(x, dtype=torch.float64))


@given(theta=NUMBERS, noise=st.lists(NUMBERS, min_size=1, max_size=4).map(torch.stack))
@settings(deadline=None)
def test_loss_and_gradient_are_those_of_the_definition(theta, noise):
    model = Quadratic([1.0, 0.5, 0.25], coordinates=2)
    model.theta.data = theta.clone()
    hessian = torch.tensor([1.0, 1.0, 0.5, 0.5, 0.25, 0.25], dtype=torch.float64)
    losses = model(noise)
    for loss, own in zip(losses, noise, strict=True):
        torch.testing.assert_close(loss, 0.5 * (hessian * theta**2).sum() + (own * theta).sum())
    losses.mean().backward()
    torch.testing.assert_close(model.theta.grad, hessian * theta + noise.mean(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_coordinate_starts_where_it_is_told_in_the_arithmetic_of_the_trial(dtype):
    model = Quadratic([1.0, 0.1], coordinates=256, start=1.5).to(dtype)
    assert torch.equal(model.theta, torch.full((512,), 1.5, dtype=dtype))
    loss = model(torch.zeros(1, 512, dtype=dtype))
    assert loss.dtype == dtype
    assert loss.item() == pytest.approx(0.5 * 256 * 1.5**2 * 1.1)


@pytest.mark.parametrize("arguments", [{"eigenvalues": []}, {"eigenvalues": [1.0, 0.0]}, {"eigenvalues": [-1.0]}])
def test_a_spectrum_that_is_not_convex_is_refused(arguments):
    with pytest.raises(UserError, match=r"model.eigenvalues must be one or more numbers > 0"):
        Quadratic(**arguments)


def test_noise_of_another_length_is_refused_in_words():
    with pytest.raises(UserError, match="noise has 8 coordinates and the quadratic 4"):
        Quadratic([1.0, 0.5], coordinates=2)(torch.zeros(1, 8))
