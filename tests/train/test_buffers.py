"""P33: state that is neither parameter nor batch norm is averaged, agreed on by all ranks, and resumed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from processes import on_ranks
from running_mean import Centred
from small_trials import WITHOUT_BATCH_NORM, evaluations, run, task, topology

from harness.plan.instantiate import instantiate
from harness.plan.settings import Settings
from harness.train.averaging import AveragedModel, decay_per_step
from harness.train.buffers import Buffers
from harness.train.evaluation import Evaluator
from harness.train.learner import Learner
from harness.train.world import World

SETTINGS = replace(WITHOUT_BATCH_NORM, model={"_target_": "running_mean.Centred"})


def history(world: World, settings: Settings, updates: int) -> dict[str, Any]:
    """Buffers of one rank after each update, then what it evaluates with, raw and averaged."""
    splits = instantiate(settings.dataset).load()
    splits = replace(
        splits,
        train=splits.train.to(world.device, torch.float32),
        validation=splits.validation.to(world.device, torch.float32),
    )
    learner = Learner(settings, 0, topology(settings, world.size), world, splits)
    learner.warm_up()
    start = learner.buffers.copy()
    after = []
    for step, drawn in learner.micro_batches(0, updates):
        learner.update(step, drawn)
        after.append(learner.buffers.copy())
    Evaluator(learner, 64).validation_scores()
    assert learner.average is not None
    averaged = learner.average.buffers.copy()
    return {"start": start, "after": after, "raw": learner.buffers.copy(), "averaged": averaged}


def test_warm_up_leaves_no_trace_in_buffers():
    start = history(World(0, 1, torch.device("cpu")), SETTINGS, 1)["start"]
    assert (start["mean"].abs().sum(), start["batches"], start["total"]) == (0, 0, 0)


def test_floating_buffers_are_averaged_like_weights_and_others_copied():
    found = history(World(0, 1, torch.device("cpu")), SETTINGS, 5)
    decay = decay_per_step(SETTINGS.averaging.half_life_examples or 0, SETTINGS.total_batch_size)
    shares = torch.tensor([decay ** (4 - i) for i in range(5)])
    for name in ("mean", "total"):
        values = torch.stack([buffers[name] for buffers in found["after"]])
        expected = torch.tensordot(shares / shares.sum(), values, dims=1)
        assert torch.allclose(found["averaged"][name], expected, rtol=1e-5)
    assert found["averaged"]["batches"] == 5
    assert torch.equal(found["averaged"]["constant"], found["start"]["constant"])


def test_an_averaged_model_scores_with_its_own_state(worker, tmp_path: Path):
    """Inputs are far from 0: with the running mean of step 0, averaged weights would classify at random."""
    settings = replace(SETTINGS, model={**SETTINGS.model, "offset": 30.0}, budget_examples=64 * 60)
    scores = evaluations(run(worker, task(tmp_path, settings)))[-1]["validation"]
    assert scores["raw"]["accuracy"] > 0.6
    assert scores["averaged"]["accuracy"] > 0.6


def test_ranks_evaluate_with_the_same_state():
    ranks = on_ranks(2, history, SETTINGS, 3)
    before = [rank["after"][-1] for rank in ranks]
    assert not torch.equal(before[0]["mean"], before[1]["mean"])
    for name in ("mean", "total", "batches", "constant"):
        assert torch.equal(ranks[0]["raw"][name], ranks[1]["raw"][name])
        assert torch.equal(ranks[0]["averaged"][name], ranks[1]["averaged"][name])
    assert torch.allclose(ranks[0]["raw"]["mean"], (before[0]["mean"] + before[1]["mean"]) / 2)


def test_the_running_mean_over_ranks_is_that_over_the_whole_batch():
    one, two = history(World(0, 1, torch.device("cpu")), SETTINGS, 3), on_ranks(2, history, SETTINGS, 3)[0]
    for kind in ("raw", "averaged"):
        assert torch.allclose(one[kind]["mean"], two[kind]["mean"], atol=1e-5)


def test_constant_buffers_do_not_change_and_cost_nothing_in_a_checkpoint():
    buffers = Buffers(Centred())
    buffers.note_moving(World(0, 1, torch.device("cpu")))
    assert buffers.moving == []
    model = Centred()
    average = AveragedModel(model, 0.9)
    constant = average.buffers["constant"].clone()
    for _ in range(20):
        average.update()
    assert torch.equal(average.buffers["constant"], constant)
