"""cluster.sharding=full computes what one rank computes, with the model split over two real processes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import on_ranks
from small_trials import (
    DIGITS,
    EVERY_EVALUATION,
    GHOST,
    SMALL,
    TIMES,
    WITHOUT_BATCH_NORM,
    evaluations,
    run,
    task,
    timeless,
)
from torch import Tensor, nn

from harness.datasets.digits import Digits
from harness.plan.errors import UserError
from harness.plan.execution import Speed
from harness.plan.gradient_noise import NoiseScale
from harness.plan.settings import Averaging
from harness.plan.trial import Arm, PlannedTrial, Topology, Trial
from harness.train.checkpoint import load_checkpoint
from harness.train.learner import Learner
from harness.train.learner_state import restore, state_of
from harness.train.rehearsal import rehearse
from harness.train.sharding_checks import check_parallel
from harness.train.worker import Task, Worker
from harness.train.world import World


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.norm, self.outer = nn.Linear(width, 11), nn.BatchNorm1d(11), nn.Linear(11, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(self.norm(self.inner(x)).relu())


class Awkward(nn.Module):
    """Odd numbers of rows, one parameter of a single row, tied and frozen ones, a moving buffer, a block used twice."""

    blocks: nn.ModuleList
    centre: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 7)
        blocks = [Block(7) for _ in range(3)]
        self.blocks = nn.ModuleList([*blocks, blocks[0]])
        self.scale = nn.Parameter(torch.ones(1))
        self.head, self.tied = nn.Linear(7, 10), nn.Linear(7, 10)
        self.tied.weight = self.head.weight
        self.register_buffer("centre", torch.zeros(7))

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.first(inputs.flatten(1))
        if self.training:
            with torch.no_grad():
                self.centre.lerp_(torch.ones_like(self.centre), 0.01)  # whatever the examples, as ranks have their own
        else:
            x = x - 0.1 * self.centre
        for block in self.blocks:
            x = block(x)
        return self.head(x * self.scale) + self.tied(x)


# 100 updates of 64, each in two micro-batches a rank, and ten evaluations; of 71 examples ranks have 35 and 36.
AWKWARD = replace(
    SMALL,
    model={"_target_": f"{__name__}.Awkward"},
    dataset={**DIGITS, "validation": 71, "test": 3},
    optimizer={"_target_": "torch.optim.AdamW", "lr": 0.01, "weight_decay": 0.1},
    parameter_groups={"frozen": ["blocks.1.inner.weight"]},
    clip_norm=0.5,
    budget_examples=100 * 64,
    evaluate_every_examples=10 * 64,
    batch_norm=replace(GHOST, statistics_examples=16),  # one group, so that a rank has none
    averaging=Averaging(half_life_examples=256, decide_on="averaged"),
)
HOW = {"accumulation": 2, "precision": "float64"}


def split(order: Task) -> Task:
    return replace(order, topology=replace(order.topology, sharding="full"))


def numbers(rows: list[dict[str, Any]]) -> list[float]:
    return [number for row in rows for number in flat(row)]


def flat(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for key in value if key not in TIMES for number in flat(value[key])]
    return [value] if isinstance(value, float) else []


def run_as_rank(world: World, order: Task) -> list[dict[str, Any]]:
    return run(Worker(world.rank, world.size, "cpu", 1), order)


def run_until_killed(world: World, order: Task, evaluations: int) -> None:
    """Make so many evaluations; the caller then kills the process."""
    worker = Worker(world.rank, world.size, "cpu", 1)
    worker.start(order)
    for _ in range(evaluations):
        worker.advance(0.0 if world.is_main else 1e9)


@pytest.mark.long
def test_a_split_model_follows_one_rank_for_100_updates_also_when_it_is_killed_and_resumed(worker, tmp_path):
    alone = run(worker, task(tmp_path / "alone", AWKWARD, **HOW))
    order = split(task(tmp_path / "split", AWKWARD, world=2, **HOW))
    whole = on_ranks(2, run_as_rank, order)[0]
    order = replace(order, folder=str(tmp_path / "killed"), execution=EVERY_EVALUATION)
    on_ranks(2, run_until_killed, order, 4)
    resumed = on_ranks(2, run_as_rank, order)[0]
    assert len(evaluations(whole)) == 10
    assert len(numbers(whole)) == len(numbers(alone)) > 100
    assert numbers(whole) == pytest.approx(numbers(alone), abs=1e-10, rel=0)
    assert timeless(evaluations(resumed)) == timeless(evaluations(whole))[4:]  # to the bit
    assert resumed[-1]["test"] == whole[-1]["test"]
    assert evaluations(whole)[-1]["diagnostics"]["clip_fraction"] > 0


def loaded_and_saved(world: World, order: Task, folder: Path) -> tuple[dict[str, Any], list[int]]:
    """What a learner of this many ranks, which has loaded a checkpoint, saves; and the bytes of its own weights."""
    found = load_checkpoint(folder, maps=True)
    assert found is not None
    worker = Worker(world.rank, world.size, "cpu", 1)
    splits = worker.splits(order.settings, order.topology)
    learner = Learner(order.settings, order.seed + 1, order.topology, world, splits)
    restore(learner, found[1])
    state = state_of(learner)
    sizes = [p.nbytes for p in learner.parallel.parameters.values()]
    return {key: state[key] for key in ("model", "optimizer", "average")}, sizes


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return one == other


@pytest.mark.long
def test_a_checkpoint_of_one_rank_loads_on_three_split_ones_and_back_to_the_bit(worker, tmp_path):
    few = replace(AWKWARD, total_batch_size=48, budget_examples=480, evaluate_every_examples=96)
    alone = task(tmp_path / "alone", few, precision="float64", execution=EVERY_EVALUATION)
    worker.start(alone)
    worker.advance(0.0)
    worker.advance(0.0)
    worker.stop()
    order = split(task(tmp_path, few, world=3, precision="float64"))
    saved = on_ranks(3, loaded_and_saved, order, tmp_path / "alone/checkpoint")
    found = load_checkpoint(tmp_path / "alone/checkpoint")
    assert found is not None
    for state in (found[1], saved[0][0]):  # evaluations make these statistics anew
        average = state["average"]["model"]
        state["average"]["model"] = {k: v for k, v in average.items() if not k.endswith((".norm.mean", ".norm.var"))}
    assert same({key: found[1][key] for key in ("model", "optimizer", "average")}, saved[0][0])
    whole = sum(p.nbytes for p in Awkward().double().parameters())
    assert sum(sum(sizes) for _, sizes in saved) == whole
    assert max(sum(sizes) for _, sizes in saved) < 0.45 * whole


# -- what is refused -------------------------------------------------------------------------------------------------

MUON, LARS = ({"_target_": f"harness.optimizers.{name}", "lr": 0.1} for name in ("muon.Muon", "lars.LARS"))


@pytest.mark.parametrize(
    ("settings", "speed", "reason"),
    [
        ({"optimizer": MUON}, {}, "optimizer harness.optimizers.muon.Muon, which uses norms or matrices"),
        ({"optimizer": LARS}, {}, "optimizer harness.optimizers.lars.LARS, which uses norms or matrices"),
        ({"optimizer": {"_target_": "torch.optim.Adafactor", "lr": 0.1}}, {}, "optimizer torch.optim.Adafactor"),
        ({"adascale_ratio": 2}, {}, "AdaScale: choose another LR rule"),
        ({"noise_scale": NoiseScale(in_training=True)}, {}, "noise_scale: leave noise_scale off"),
        ({"batch_norm": replace(GHOST, statistics="running", half_life_examples=256.0)}, {}, "batch_norm.statistics"),
        ({}, {"gradient_compression": True}, "cluster.gradient_compression=true: use false"),
        ({}, {"channels_last": True}, "cluster.channels_last=true: use false"),
    ],
)
def test_what_cannot_be_split_is_refused_by_name(settings, speed, reason):
    order = split(task(Path(), replace(SMALL, **settings), world=2))
    with pytest.raises(UserError, match=f"cluster.sharding=full does not work with {reason}"):
        check_parallel(order.settings, order.topology, Speed(**speed))


class Scalar(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.scale = nn.Linear(64, 10), nn.Parameter(torch.ones(()))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.scale * self.linear(inputs.flatten(1))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (f"{__name__}.Scalar", r"scale is a single number without rows: give it the shape \[1\]"),
        ("unused_parameters.PartlyUsed", "never.weight gets none: freeze it with parameter_groups.frozen"),
    ],
)
def test_a_model_that_cannot_be_split_is_refused_before_the_start(model, reason):
    settings = replace(WITHOUT_BATCH_NORM, model={"_target_": model})
    trial = PlannedTrial(Trial(Arm("", "", "", 1, 1.0, settings), 0), split(task(Path(), settings, world=2)).topology)
    with pytest.raises(UserError, match=reason):
        rehearse([trial], Digits(256, 70, 50).load(), Speed())


def test_elementwise_optimizers_are_not_refused():
    for name in ("SGD", "AdamW", "RMSprop", "NAdam"):
        order = split(task(Path(), replace(SMALL, optimizer={"_target_": f"torch.optim.{name}", "lr": 0.1}), world=2))
        check_parallel(order.settings, order.topology, Speed())


def test_only_a_split_topology_has_a_name_of_its_own():
    order = task(Path(), world=2)
    assert split(order).topology.key == f"{order.topology.key}-full" == "cpu-w2-b32-a1-float32-full"
    assert "sharding" not in order.topology.to_json()
    assert Topology.from_json(split(order).topology.to_json()) == split(order).topology
    with pytest.raises(UserError, match=r"TBS 64 has one: use cluster.workers_per_trial >= 2"):
        split(task(Path()))
    with pytest.raises(UserError, match=r"cluster.sharding must be one of none, full, not 'half'"):
        replace(order.topology, sharding="half")
