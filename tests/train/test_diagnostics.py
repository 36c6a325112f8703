"""What an evaluation row says of its updates: numbers one can check by hand, the same whatever splits the batch."""

import copy
from dataclasses import replace

import pytest
import torch
from small_trials import SMALL, WITHOUT_BATCH_NORM, evaluations, run, run_on_ranks, task, topology
from torch import nn
from torch.nn import functional

from harness.datasets.digits import Digits
from harness.plan.errors import UserError
from harness.train.diagnostics import Diagnostics, layer_groups
from harness.train.learner import Learner
from harness.train.world import World

CLIPPED = replace(SMALL, clip_norm=0.6)


def one_update(model: nn.Module, clip_norm: float | None = None) -> Diagnostics:
    """Gradients of 3 and 4 on two scalars of 10 and 100, LR 0.1."""
    watched = Diagnostics(dict(model.named_parameters()), clip_norm)
    for parameter, gradient in zip(model.parameters(), (3.0, 4.0), strict=True):
        parameter.grad = torch.full_like(parameter, gradient)
    watched.before_step(last=True)
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    watched.after_step()
    return watched


def two_scalars() -> nn.Module:
    scalars = {"a": nn.Parameter(torch.tensor([10.0])), "b": nn.Parameter(torch.tensor([100.0]))}
    return nn.ModuleDict({name: nn.ParameterList([value]) for name, value in scalars.items()})


def test_the_norms_are_those_of_a_gradient_and_an_update_done_by_hand():
    row = one_update(two_scalars()).read()
    assert row["gradient_norm"] == pytest.approx(5.0)
    assert row["update_ratio"] == pytest.approx({"a.0": 0.03, "b.0": 0.004}, rel=1e-5)
    assert "clip_fraction" not in row


def test_clipping_scales_the_update_to_the_global_norm_and_is_counted():
    row = one_update(two_scalars(), clip_norm=1.0).read()
    assert row["gradient_norm"] == pytest.approx(5.0)  # before clipping
    assert row["update_ratio"] == pytest.approx({"a.0": 0.006, "b.0": 0.0008}, rel=1e-4)
    assert row["clip_fraction"] == 1.0
    assert one_update(two_scalars(), clip_norm=6.0).read()["clip_fraction"] == 0.0


def test_a_new_interval_counts_afresh():
    watched = one_update(two_scalars(), clip_norm=1.0)
    watched.read()
    assert watched.read() == {
        "gradient_norm": None,
        "update_ratio": {"a.0": None, "b.0": None},
        "clip_fraction": None,
    }


def test_in_float64_every_split_of_the_batch_has_the_same_diagnostics(worker, tmp_path):
    alone = evaluations(run(worker, task(tmp_path / "1", CLIPPED, precision="float64")))
    accumulated = evaluations(run(worker, task(tmp_path / "a", CLIPPED, accumulation=2, precision="float64")))
    shared = evaluations(run_on_ranks(task(tmp_path / "2", CLIPPED, world=2, precision="float64"))[0])
    for rows in (accumulated, shared):
        for row, expected in zip(rows, alone, strict=True):
            found, wanted = row["diagnostics"], expected["diagnostics"]
            assert found["gradient_norm"] == pytest.approx(wanted["gradient_norm"], rel=1e-10)
            assert found["update_ratio"] == pytest.approx(wanted["update_ratio"], rel=1e-10)
            assert found["clip_fraction"] == wanted["clip_fraction"]
    assert {row["diagnostics"]["clip_fraction"] for row in alone} != {0.0}


def test_clipping_far_above_every_gradient_changes_no_bit(worker, tmp_path):
    losses = [
        [
            row["train_loss"]
            for row in evaluations(run(worker, task(tmp_path / str(limit), replace(SMALL, clip_norm=limit))))
        ]
        for limit in (None, 1e6)
    ]
    assert losses[0] == losses[1]


def test_a_clipped_run_follows_torchs_own_clipping():
    settings = replace(WITHOUT_BATCH_NORM, clip_norm=0.1)
    world, splits = World(0, 1, torch.device("cpu")), Digits(256, 70, 50).load()
    made = Learner(settings, 0, topology(settings, accumulation=2), world, splits)
    model = copy.deepcopy(made.model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    for step, examples in made.micro_batches(0, 4):
        made.update(step, examples)
        optimizer.param_groups[0]["lr"] = made.lr(step)
        batch = splits.train.batch(examples[0].flatten())
        functional.cross_entropy(model(batch.inputs), batch.targets).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(list(made.model.parameters()), list(model.parameters()), rtol=1e-5, atol=1e-6)


def test_rows_carry_memory_and_skipped_updates(worker, tmp_path):
    row = evaluations(run(worker, task(tmp_path)))[0]
    assert row["memory_peak_bytes"] > 10_000_000
    assert row["skipped_updates"] == 0


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_a_clip_norm_that_is_no_number_above_zero_is_refused(limit):
    with pytest.raises(UserError, match="clip_norm must be a number > 0"):
        replace(SMALL, clip_norm=limit)


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["head.weight", "blocks.3.attention.weight", "scale"], ["head", "blocks.3", "scale"]),
        (
            ["model.embed.weight", "model.layers.10.mlp.experts.2.weight", "model.norm.weight", "lm_head.weight"],
            ["model.embed", "model.layers.10", "model.norm", "lm_head"],
        ),
        (["0.weight", "2.0.bias", "2.1.bias"], ["0", "2.0", "2.1"]),
    ],
)
def test_layers_are_named_by_their_parameters_up_to_the_first_number(names, groups):
    assert layer_groups(names) == groups


def test_watching_an_update_holds_one_copy_of_the_weights():
    """Of tensors that are alive between the two calls, and of those that the second one makes."""
    model = nn.Linear(1000, 1000, bias=False)
    model.weight.grad = torch.ones_like(model.weight)
    watched, size = Diagnostics(dict(model.named_parameters()), None), model.weight.nbytes
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as trace:
        watched.before_step(last=True)
        watched.after_step()
    taken = sum(max(event.self_cpu_memory_usage, 0) for event in trace.key_averages())
    assert size <= taken < 1.5 * size
