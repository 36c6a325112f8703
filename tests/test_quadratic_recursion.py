"""The recursion is the expectation: equal, without statistics, to the mean over every possible noise of torch's SGD."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quadratic_recursion import LossCurve, crossing_examples, loss_curves, noise_floor, second_moments

from harness.plan.target import Target
from harness.train.averaging import AveragedModel

UPDATES = 4
LRS = st.lists(st.floats(0, 1.5), min_size=UPDATES, max_size=UPDATES)
EIGENVALUES = st.lists(st.floats(0.01, 2), min_size=1, max_size=3)


def mean_over_all_noise(
    h: float, c: float, batch: int, lrs: list[float], momenta: list[float], decay: float, start: float
) -> dict[str, list[float]]:
    """h E[theta^2] / 2 of raw and averaged weights after each update: torch.optim.SGD and the trainer's own average,
    run in one go on every sequence of signs +-sqrt(c) that `batch` examples an update can draw."""
    signs = torch.tensor(list(product((-1.0, 1.0), repeat=batch * len(lrs))), dtype=torch.float64)
    xi = math.sqrt(c) * signs.view(-1, len(lrs), batch).mean(-1)
    theta = torch.nn.Parameter(torch.full((len(xi),), start, dtype=torch.float64))
    model = torch.nn.ParameterList([theta])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    average = AveragedModel(model, decay)
    losses: dict[str, list[float]] = {"raw": [], "averaged": []}
    for t, (lr, momentum) in enumerate(zip(lrs, momenta, strict=True)):
        optimizer.param_groups[0].update(lr=lr, momentum=momentum)
        theta.grad = h * theta.detach() + xi[:, t]
        optimizer.step()
        average.update()
        for name, module in (("raw", model), ("averaged", average.module)):
            losses[name].append(float(h * next(module.parameters()).detach().square().mean() / 2))
    return losses


@given(
    h=st.floats(0.01, 2),
    c=st.floats(0, 3),
    batch=st.integers(1, 2),
    lrs=LRS,
    momenta=st.lists(st.floats(0.01, 0.99), min_size=UPDATES, max_size=UPDATES) | st.just([0.0] * UPDATES),
    decay=st.sampled_from([0.0, 0.3, 0.9]),
    start=st.floats(-2, 2),
)
@settings(deadline=None, max_examples=50)
def test_the_expected_loss_is_the_mean_over_every_noise_of_torchs_own_sgd(h, c, batch, lrs, momenta, decay, start):
    expected = mean_over_all_noise(h, c, batch, lrs, momenta, decay, start)
    run = {"start": start, "total_batch_size": batch, "lrs": lrs, "momentum": momenta, "average_decay": decay}
    for name, curve in loss_curves([h], [c], coordinates=1, **run).items():
        np.testing.assert_allclose(curve.expected[1:], expected[name], rtol=1e-10, atol=1e-12)
        assert curve.expected[0] == pytest.approx(h * start**2 / 2)


def test_without_momentum_it_is_the_recursion_of_zhang_et_al():
    h, c, lrs, batch, theta_squared = 0.3, 0.7, [0.1, 0.4, 0.9, 0.2], 5, 4.0
    moments = second_moments([h], [c], start=2.0, total_batch_size=batch, lrs=lrs, momentum=0.0)
    for t, lr in enumerate(lrs):
        theta_squared = (1 - lr * h) ** 2 * theta_squared + lr**2 * c / batch
        assert moments[t + 1, 0, 0, 0] == pytest.approx(theta_squared)


@given(eigenvalues=EIGENVALUES, lrs=LRS, coordinates=st.integers(1, 300))
def test_eigenvalues_and_their_coordinates_add_up(eigenvalues, lrs, coordinates):
    def curve(h: list[float], n: int) -> LossCurve:
        run = {"start": 1.0, "total_batch_size": 8, "lrs": lrs, "momentum": 0.9, "average_decay": 0.5}
        return loss_curves(h, [2 * value for value in h], coordinates=n, **run)["averaged"]

    together, alone = curve(eigenvalues, coordinates), [curve([h], 1) for h in eigenvalues]
    np.testing.assert_allclose(together.expected, coordinates * sum(one.expected for one in alone))
    np.testing.assert_allclose(together.spread**2, coordinates * sum(one.spread**2 for one in alone), atol=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_spread_is_that_of_simulated_runs(momentum):
    h, c, lr, batch, runs, coordinates = 0.5, 0.4, 0.1, 4, 4000, 8
    rng = np.random.default_rng(0)
    theta, velocity = np.ones((2, runs, coordinates))
    velocity[:] = 0
    for _ in range(30):
        xi = math.sqrt(c) * (2 * rng.integers(0, 2, (batch, runs, coordinates)) - 1).mean(0)
        velocity = momentum * velocity + h * theta + xi
        theta = theta - lr * velocity
    losses = h / 2 * (theta**2).sum(-1)
    run = {"start": 1.0, "total_batch_size": batch, "lrs": [lr] * 30, "momentum": momentum}
    curve = loss_curves([h], [c], coordinates=coordinates, **run)["raw"]
    assert losses.mean() == pytest.approx(curve.expected[-1], abs=4 * curve.spread[-1] / math.sqrt(runs))
    assert losses.std() == pytest.approx(curve.spread[-1], rel=0.06)  # a standard deviation of 4000 is good to 1.5 %


@given(
    eigenvalues=EIGENVALUES, lr=st.floats(0.1, 0.9), momentum=st.sampled_from([0.0, 0.5, 0.9]), c=st.floats(0.1, 2.0)
)
@settings(deadline=None, max_examples=20)
def test_the_noise_floor_is_where_the_recursion_comes_to_rest(eigenvalues, lr, momentum, c):
    eigenvalues = [0.2 + h for h in eigenvalues]  # a flat direction would take too long to forget its start
    sizes = {"coordinates": 3, "total_batch_size": 8}
    variances = [c] * len(eigenvalues)
    run = {"start": 1.0, "lrs": [lr] * 1500, "momentum": momentum, "average_decay": 0.9}
    curves = loss_curves(eigenvalues, variances, **sizes, **run)
    floor = noise_floor(eigenvalues, variances, **sizes, lr=lr, momentum=momentum)
    assert curves["raw"].expected[-1] == pytest.approx(floor)
    assert curves["averaged"].expected[-1] < floor


def test_a_learning_rate_beyond_stability_has_no_floor():
    floors = [
        noise_floor([1.0, 0.1], [0.2, 0.2], coordinates=1, total_batch_size=8, lr=lr, momentum=0.9)
        for lr in (3.79, 3.8, 3.9)
    ]
    assert math.isfinite(floors[0])
    assert floors[1:] == [math.inf, math.inf]


@given(rate=st.floats(0.05, 3), value=st.floats(1e-3, 0.9))
def test_an_exponential_crosses_where_it_does(rate, value):
    examples = [10.0 * i for i in range(1, 2000)]
    losses = [math.exp(-rate * x / 100) for x in examples]
    crossing = crossing_examples(examples, losses, Target("loss", value, "min"))
    assert crossing == pytest.approx(max(10.0, -100 * math.log(value) / rate))


def test_a_curve_that_stays_above_or_is_not_confirmed_does_not_cross():
    target = Target("loss", 1.0, "min", confirm=2)
    assert crossing_examples([1, 2, 3], [3.0, 2.0, 1.5], target) is None
    assert crossing_examples([1, 2, 3], [3.0, 0.5, 1.5], target) is None
    assert crossing_examples([1, 2, 3, 4], [3.0, 0.5, 4.0, 1.0, 0.5], target) == 4
