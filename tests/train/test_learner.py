"""P1, P4, P8: one gradient whatever splits the batch, hyperparameters by update, a warm-up that leaves no trace."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from processes import on_ranks
from small_trials import MLP, SGD, SMALL, WITHOUT_BATCH_NORM, topology
from torch import Tensor, nn
from torch.nn import functional

from harness.datasets.digits import Digits
from harness.datasets.examples import Splits, TensorExamples
from harness.objectives.objective import IGNORED
from harness.plan.settings import Settings
from harness.train.counts import exploded
from harness.train.learner import Learner
from harness.train.learner_state import state_of
from harness.train.stream import ExampleStream
from harness.train.world import World

ALONE = World(0, 1, torch.device("cpu"))
TOKENS = TensorExamples(
    torch.randint(5, (256, 6), generator=torch.Generator().manual_seed(0)),
    torch.randint(5, (256, 6), generator=torch.Generator().manual_seed(1)).masked_fill(
        torch.rand(256, 6, generator=torch.Generator().manual_seed(2)) < 0.5, IGNORED
    ),
)


class TokenModel(nn.Module):
    """Logits [n, t, 5] of each token from itself."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table(tokens)


def digits() -> Splits:
    splits, kind = Digits(256, 70, 50).load(), torch.float64
    device = torch.device("cpu")
    return replace(splits, train=splits.train.to(device, kind), validation=splits.validation.to(device, kind))


def tokens() -> Splits:
    return Splits(TOKENS, TOKENS, TOKENS, "tokens")


def partly_labelled() -> Splits:
    splits = digits()
    assert isinstance(splits.train, TensorExamples)
    unlabelled = torch.arange(256) % 3 == 0
    return replace(splits, train=replace(splits.train, targets=splits.train.targets.masked_fill(unlabelled, IGNORED)))


LANGUAGE = replace(WITHOUT_BATCH_NORM, model={"_target_": f"{__name__}.TokenModel"})
UNLABELLED = replace(WITHOUT_BATCH_NORM, dataset={"_target_": "partly_labelled"})
KINDS = {
    "examples": WITHOUT_BATCH_NORM,
    "tokens that may not count": LANGUAGE,
    "examples that may not count": UNLABELLED,
}


def learner(world: World, settings: Settings, accumulation: int = 1, seed: int = 0) -> Learner:
    where = topology(settings, world.size, accumulation, "float64")
    data = tokens() if settings.model == LANGUAGE.model else digits()
    data = partly_labelled() if settings.dataset == UNLABELLED.dataset else data
    return Learner(settings, seed, where, world, data)


def numbers(state: Any) -> Any:
    """The same with tensors as lists, so that equality is equality of every bit."""
    if isinstance(state, Mapping):
        return {key: numbers(value) for key, value in state.items()}
    if isinstance(state, list):
        return [numbers(value) for value in state]
    return state.tolist() if isinstance(state, Tensor) else state


def after_updates(
    world: World, settings: Settings, updates: int, accumulation: int
) -> tuple[list[float], list[Tensor]]:
    """The batches' mean losses and the weights after some updates."""
    made = learner(world, settings, accumulation)
    losses = [world.sum(made.update(step, examples)).item() for step, examples in made.micro_batches(0, updates)]
    return losses, [p.detach().clone() for p in made.model.parameters()]


def by_hand(settings: Settings, updates: int) -> tuple[list[float], list[Tensor]]:
    """The same with torch alone: the mean loss over each whole batch, SGD with momentum, the warm-up's LR."""
    made = learner(ALONE, settings)
    model, data, losses = made.model, made.splits.train, []
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    for step in range(updates):
        optimizer.param_groups[0]["lr"] = settings.peak_lr * min(1.0, (step + 1) / 4)
        inputs, targets = data.batch(ExampleStream(0, 256).positions(64 * step, 64 * (step + 1)))
        logits = model(inputs)
        loss = functional.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("accumulation", [1, 4, 64])
def test_an_update_follows_the_gradient_of_the_mean_over_the_global_batch(settings, accumulation):
    found = after_updates(ALONE, settings, 6, accumulation)
    torch.testing.assert_close(found, by_hand(settings, 6), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_ranks_follow_the_gradient_of_the_mean_over_the_global_batch(settings):
    expected = by_hand(settings, 6)
    for found in on_ranks(2, after_updates, settings, 6, 2):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_lr_and_weight_decay_of_an_update_are_the_schedules_in_every_group():
    settings = replace(
        SMALL,
        optimizer={**SGD, "weight_decay": 0.01},
        parameter_groups={"lr_factors": {"head.*": 3.0}, "no_decay_on_norms_and_biases": True},
    )
    made = learner(ALONE, settings)
    for step, examples in made.micro_batches(0, 6):
        made.update(step, examples)
        lr = 0.1 * min(1.0, (step + 1) / 4)
        groups = made.optimizer.param_groups
        assert sorted({g["lr"] for g in groups}) == pytest.approx([lr, 3 * lr])
        assert {g["weight_decay"] for g in groups} == {0.0, 0.01}


@pytest.mark.parametrize(
    ("optimizer", "key"),
    [(SGD, "momentum"), ({"_target_": "torch.optim.AdamW", "lr": 0.001, "betas": [0.9, 0.99]}, "betas")],
)
def test_a_schedule_that_cycles_momentum_moves_that_of_the_optimizer(optimizer, key):
    cycle = {"_target_": "harness.plan.horizons.OneCycle", "horizon": 12, "rise": 4, "annihilate": 2}
    made = learner(ALONE, replace(SMALL, optimizer=optimizer, schedule=cycle))
    for step, examples in made.micro_batches(0, 12):
        made.update(step, examples)
        expected = made.schedule.momentum(step)
        assert made.optimizer.param_groups[0][key] == (expected if key == "momentum" else (expected, 0.99))


def test_an_optimizer_without_weight_decay_in_its_conf_keeps_its_own_default():
    made = learner(ALONE, replace(SMALL, optimizer={"_target_": "torch.optim.AdamW", "lr": 0.001}))
    assert {g["weight_decay"] for g in made.optimizer.param_groups} == {0.01}


def test_warming_up_leaves_weights_optimizer_and_average_as_they_were():
    warm, cold = learner(ALONE, SMALL), learner(ALONE, SMALL)
    warm.warm_up()
    assert numbers(state_of(warm)) == numbers(state_of(cold))
    for made in (warm, cold):
        for step, examples in made.micro_batches(0, 5):
            made.update(step, examples)
    assert numbers(state_of(warm)) == numbers(state_of(cold))


def test_even_an_lr_that_explodes_leaves_no_trace_in_the_warm_up():
    warm = learner(ALONE, replace(SMALL, optimizer={**SGD, "lr": 1e30}, schedule={**SMALL.schedule, "warmup": 0}))
    before = copy.deepcopy(warm.model.state_dict())
    warm.warm_up()
    assert numbers(warm.model.state_dict()) == numbers(before)


def dropout(seed: int, world: World = ALONE, accumulation: int = 1) -> list[float]:
    made = learner(world, replace(WITHOUT_BATCH_NORM, model={**MLP, "dropout": 0.5}), accumulation, seed)
    torch.manual_seed(torch.seed())  # what came before does not matter
    return [made.update(step, examples).item() for step, examples in made.micro_batches(0, 4)]


def test_dropout_is_a_function_of_seed_update_and_micro_batch():
    assert dropout(0) == dropout(0)
    assert dropout(0) != dropout(1)


def test_micro_batches_of_one_update_drop_out_differently():
    made = learner(ALONE, replace(WITHOUT_BATCH_NORM, model={**MLP, "dropout": 0.5}), accumulation=2)
    masks = []
    made.model.get_submodule("hidden.2").register_forward_hook(lambda module, inputs, output: masks.append(output == 0))
    same = torch.zeros(2, 2, 32, dtype=torch.long)  # one example, again and again
    made.update(0, same)
    assert not torch.equal(masks[0], masks[1])


def test_initial_weights_follow_the_seed_and_leave_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    weights = [learner(ALONE, SMALL, seed=seed).model.state_dict()["head.weight"] for seed in (0, 0, 1)]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("losses", "found"),
    [
        ([1.0, 2.0, 999.0], None),
        ([1.0, 1001.0, 2.0], 1),
        ([1.0, float("nan"), 1.0], 1),
        ([1.0, 2.0, float("inf")], 2),
        ([float("nan")], 0),
        ([-5.0, 4999.0], None),
        ([-5.0, 5001.0], 1),
    ],
)
def test_the_first_loss_that_is_not_finite_or_a_thousand_times_the_first_is_found(losses, found):
    assert exploded(losses, losses[0]) == found


def test_a_loss_may_declare_what_it_has_diverged_at():
    assert exploded([-1e-9, 3.0], -1e-9) == 1
    assert exploded([-1e-9, 3.0], -1e-9, diverges_at=4.0) is None
    assert exploded([0.0, 3.0, 4.5], 0.0, diverges_at=4.0) == 2
    assert exploded([float("nan"), 3.0], float("nan"), diverges_at=4.0) == 0


def partly_used(world: World, name: str, accumulation: int) -> tuple[list[float], dict[str, list[float]]]:
    """Losses, and sums of the weights, after six updates with weight decay."""
    settings = replace(WITHOUT_BATCH_NORM, model={"_target_": f"unused_parameters.{name}"})
    made = learner(world, replace(settings, optimizer={**SGD, "weight_decay": 0.1}), accumulation)
    made.warm_up()
    losses = [world.sum(made.update(step, drawn)).item() for step, drawn in made.micro_batches(0, 6)]
    return losses, {name: p.detach().flatten().tolist() for name, p in made.model.named_parameters()}


@pytest.mark.parametrize("name", ["NeverUsed", "PartlyUsed"])
@pytest.mark.parametrize(("ranks", "accumulation"), [(2, 2), (4, 1)])
def test_parameters_that_some_micro_batches_do_not_use_train_alike_on_any_number_of_ranks(name, ranks, accumulation):
    """One that no micro-batch uses stays as it is, also where weight decay would move it."""
    losses, weights = partly_used(ALONE, name, 4)
    found, others = on_ranks(ranks, partly_used, name, accumulation)[0]
    assert found == pytest.approx(losses, abs=1e-12)
    for name, weight in weights.items():
        assert others[name] == pytest.approx(weight, abs=1e-12)
