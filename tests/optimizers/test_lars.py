"""LARS against algorithm 1 of its paper, written out here number by number."""

from math import sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.optimizers.lars import LARS
from harness.plan.errors import UserError

Layer = list[float]


def algorithm_1(
    layers: list[Layer],
    gradients: list[list[Layer]],
    lrs: list[float],
    momentum: float,
    decay: float,
    eta: float,
) -> list[Layer]:
    """Weights after len(lrs) steps of You et al. 2017, algorithm 1; `gradients` [step][layer][number]."""
    weights = [list(layer) for layer in layers]
    velocities = [[0.0] * len(layer) for layer in layers]
    for gradient, gamma in zip(gradients, lrs, strict=True):
        for w, v, g in zip(weights, velocities, gradient, strict=True):
            norm_w, norm_g = sqrt(sum(x * x for x in w)), sqrt(sum(x * x for x in g))
            local_lr = eta * norm_w / (norm_g + decay * norm_w)
            for i in range(len(w)):
                v[i] = momentum * v[i] + gamma * local_lr * (g[i] + decay * w[i])
                w[i] = w[i] - v[i]
    return weights


def train(optimizer: torch.optim.Optimizer, gradients: list[list[Layer]], lrs: list[float]) -> list[Layer]:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for gradient, lr in zip(gradients, lrs, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = lr
        for p, g in zip(params, gradient, strict=True):
            p.grad = torch.tensor(g, dtype=p.dtype).view_as(p)
        optimizer.step()
    return [p.detach().flatten().tolist() for p in params]


def parameters(layers: list[Layer]) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.tensor(layer, dtype=torch.float64)) for layer in layers]


number = st.floats(-2, 2).filter(lambda x: abs(x) > 1e-3)
layer_pair = st.tuples(st.lists(number, min_size=3, max_size=3), st.lists(number, min_size=2, max_size=2)).map(list)


@settings(max_examples=50, deadline=None)
@given(
    layers=layer_pair,
    gradients=st.lists(layer_pair, min_size=3, max_size=3),
    lrs=st.lists(st.floats(0.01, 10), min_size=3, max_size=3),
    momentum=st.floats(0, 0.99),
    decay=st.floats(0, 0.1),
    eta=st.floats(1e-3, 0.1),
)
def test_updates_follow_algorithm_1_under_any_schedule(layers, gradients, lrs, momentum, decay, eta):
    lars = LARS(parameters(layers), lr=1.0, momentum=momentum, weight_decay=decay, trust_coefficient=eta)
    expected = algorithm_1(layers, gradients, lrs, momentum, decay, eta)
    for got, want in zip(train(lars, gradients, lrs), expected, strict=True):
        assert got == pytest.approx(want, rel=1e-9, abs=1e-9)


def test_an_update_does_not_depend_on_the_scale_of_the_gradient():
    updates = []
    for scale in (1.0, 1000.0):
        p = torch.nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
        updates.append(train(LARS([p], lr=1.0), [[[scale, 2 * scale]]], [1.0]))
    assert updates[0][0] == pytest.approx(updates[1][0], rel=1e-12)


def test_norms_and_biases_take_plain_momentum_steps_unless_told_otherwise():
    gradients, lrs = [[[1.0, -2.0]], [[0.5, 1.0]]], [0.1, 0.2]
    for adapt, reference in (
        (False, torch.optim.SGD),
        (True, lambda params, lr: LARS(params, lr=lr, momentum=0.0, trust_coefficient=0.01)),
    ):
        mine, theirs = parameters([[3.0, 4.0]]), parameters([[3.0, 4.0]])
        lars = LARS(
            [{"params": mine, "norms_and_biases": True}],
            lr=1.0,
            momentum=0.0,
            trust_coefficient=0.01,
            adapt_norms_and_biases=adapt,
        )
        got = train(lars, gradients, lrs)
        want = train(reference(theirs, lr=1.0), gradients, lrs)
        assert got[0] == pytest.approx(want[0], rel=1e-12)


def test_a_layer_that_starts_at_zero_leaves_it():
    p = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    assert train(LARS([p], lr=1.0), [[[1.0, 2.0]]], [0.5]) == [[-0.5, -1.0]]


def test_gradients_are_left_as_they_are():
    p = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    p.grad = torch.tensor([1.0, 2.0])
    LARS([p], lr=1.0, weight_decay=0.1).step()
    assert p.grad.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), not 1.0"),
        ({"trust_coefficient": 0.0}, "trust_coefficient must be > 0, not 0.0"),
        ({"weight_decay": -0.1}, "weight_decay must be >= 0, not -0.1"),
    ],
)
def test_impossible_values_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        LARS(parameters([[1.0]]), lr=1.0, **values)
