"""LAMB against algorithm 2 of its paper, written out here number by number."""

from math import sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.optimizers.lamb import LAMB
from harness.plan.errors import UserError

Layer = list[float]


def algorithm_2(
    layers: list[Layer],
    gradients: list[list[Layer]],
    lrs: list[float],
    betas: tuple[float, float],
    eps: float,
    decay: float,
) -> list[Layer]:
    """Weights after len(lrs) steps of You et al. 2019, algorithm 2, phi(z) = z; `gradients` [step][layer][number]."""
    beta1, beta2 = betas
    x = [list(layer) for layer in layers]
    m = [[0.0] * len(layer) for layer in layers]
    v = [[0.0] * len(layer) for layer in layers]
    for t, (gradient, lr) in enumerate(zip(gradients, lrs, strict=True), start=1):
        for layer, g in enumerate(gradient):
            update = []
            for i in range(len(g)):
                m[layer][i] = beta1 * m[layer][i] + (1 - beta1) * g[i]
                v[layer][i] = beta2 * v[layer][i] + (1 - beta2) * g[i] ** 2
                m_hat = m[layer][i] / (1 - beta1**t)
                v_hat = v[layer][i] / (1 - beta2**t)
                update.append(m_hat / (sqrt(v_hat) + eps) + decay * x[layer][i])
            ratio = sqrt(sum(w * w for w in x[layer])) / sqrt(sum(u * u for u in update))
            x[layer] = [w - lr * ratio * u for w, u in zip(x[layer], update, strict=True)]
    return x


def train(optimizer: torch.optim.Optimizer, gradients: list[list[Layer]], lrs: list[float]) -> list[Layer]:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for gradient, lr in zip(gradients, lrs, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = lr
        for p, g in zip(params, gradient, strict=True):
            p.grad = torch.tensor(g, dtype=p.dtype)
        optimizer.step()
    return [p.detach().tolist() for p in params]


def parameters(layers: list[Layer]) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.tensor(layer, dtype=torch.float64)) for layer in layers]


number = st.floats(-2, 2).filter(lambda x: abs(x) > 1e-3)
layer_pair = st.tuples(st.lists(number, min_size=3, max_size=3), st.lists(number, min_size=2, max_size=2)).map(list)


@settings(max_examples=50, deadline=None)
@given(
    layers=layer_pair,
    gradients=st.lists(layer_pair, min_size=3, max_size=3),
    lrs=st.lists(st.floats(1e-4, 0.1), min_size=3, max_size=3),
    betas=st.tuples(st.floats(0, 0.99), st.floats(0, 0.9999)),
    decay=st.floats(0, 0.1),
)
def test_updates_follow_algorithm_2_under_any_schedule(layers, gradients, lrs, betas, decay):
    lamb = LAMB(parameters(layers), lr=1.0, betas=betas, eps=1e-6, weight_decay=decay)
    expected = algorithm_2(layers, gradients, lrs, betas, 1e-6, decay)
    for got, want in zip(train(lamb, gradients, lrs), expected, strict=True):
        assert got == pytest.approx(want, rel=1e-7, abs=1e-9)


def test_an_update_has_the_length_of_lr_times_the_weights():
    p = torch.nn.Parameter(torch.tensor([30.0, 40.0], dtype=torch.float64))
    (after,) = train(LAMB([p], lr=1.0, weight_decay=0.1), [[[1.0, -7.0]]], [0.01])
    moved = sqrt((after[0] - 30) ** 2 + (after[1] - 40) ** 2)
    assert moved == pytest.approx(0.01 * 50, rel=1e-12)  # no clamp on the norm, which some libraries set at 10


def test_norms_and_biases_take_adamw_steps_unless_told_otherwise():
    gradients, lrs = [[[1.0, -2.0]], [[0.5, 1.0]]], [0.1, 0.2]
    for adapt in (False, True):
        mine, theirs = parameters([[3.0, 4.0]]), parameters([[3.0, 4.0]])
        group = {"params": mine, "norms_and_biases": True}
        got = train(LAMB([group], lr=1.0, weight_decay=0.1, adapt_norms_and_biases=adapt), gradients, lrs)
        reference = (
            LAMB(theirs, lr=1.0, weight_decay=0.1)
            if adapt
            else torch.optim.AdamW(theirs, lr=1.0, eps=1e-6, weight_decay=0.1)
        )
        assert got[0] == pytest.approx(train(reference, gradients, lrs)[0], rel=1e-12)


def test_a_layer_that_starts_at_zero_leaves_it():
    p = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    (after,) = train(LAMB([p], lr=1.0, eps=0.0), [[[1.0, -2.0]]], [0.5])
    assert after == pytest.approx([-0.5, 0.5])


def test_a_resumed_optimizer_goes_on_with_the_same_bits():
    gradients = [[[1.0, -2.0]], [[0.5, 1.0]], [[-3.0, 0.1]]]
    straight, before = parameters([[3.0, 4.0]]), parameters([[3.0, 4.0]])
    train(LAMB(straight, lr=1.0), gradients, [0.1] * 3)
    first = LAMB(before, lr=1.0)
    train(first, gradients[:2], [0.1] * 2)
    after = [torch.nn.Parameter(p.detach().clone()) for p in before]
    second = LAMB(after, lr=1.0)
    second.load_state_dict(first.state_dict())
    train(second, gradients[2:], [0.1])
    assert torch.equal(straight[0], after[0])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"betas": [0.9]}, r"betas must be two numbers in \[0, 1\), not \[0.9\]"),
        ({"betas": [0.9, 1.0]}, r"betas must be two numbers in \[0, 1\), not \[0.9, 1.0\]"),
        ({"eps": -1.0}, "eps must be >= 0, not -1.0"),
        ({"weight_decay": -0.1}, "weight_decay must be >= 0, not -0.1"),
    ],
)
def test_impossible_values_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        LAMB(parameters([[1.0]]), lr=1.0, **values)
