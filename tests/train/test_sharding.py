"""cluster.sharding=full computes what one rank computes, with the model split over two real processes."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import on_ranks
from small_trials import DIGITS, EVERY_EVALUATION, GHOST, SMALL, WITHOUT_BATCH_NORM, evaluations, run, task, timeless
from torch import Tensor, nn

from harness.plan.settings import Averaging, Settings
from harness.train.checkpoint import load_checkpoint
from harness.train.learner import Learner
from harness.train.learner_state import restore, state_of
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

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 7)
        self.blocks = nn.ModuleList([Block(7) for _ in range(3)])
        self.blocks.append(self.blocks[0])
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


# 100 updates of 64 in two micro-batches a rank, each followed by an evaluation; 71 examples are 36 and 35.
AWKWARD = replace(
    SMALL,
    model={"_target_": f"{__name__}.Awkward"},
    dataset={**DIGITS, "validation": 71, "test": 3},
    optimizer={"_target_": "torch.optim.AdamW", "lr": 0.01, "weight_decay": 0.1},
    parameter_groups={"frozen": ["blocks.1.inner.weight"]},
    clip_norm=0.5,
    budget_examples=100 * 64,
    evaluate_every_examples=64,
    batch_norm=replace(GHOST, statistics_examples=16),  # one group, so that a rank has none
    averaging=Averaging(half_life_examples=256, decide_on="averaged"),
)


def sharded(order: Task) -> Task:
    return replace(order, topology=replace(order.topology, sharding="full"))


def numbers(rows: list[dict[str, Any]]) -> list[Any]:
    return [[row["train_loss"], row["validation"], row["diagnostics"]] for row in evaluations(rows)]


def run_as_rank(world: World, order: Task, dropped_at: int) -> list[dict[str, Any]]:
    """The rows of a trial, dropped at an evaluation and resumed by another worker where that is not 0."""
    if dropped_at:
        worker = Worker(world.rank, world.size, "cpu", 1)
        worker.start(order)
        for _ in range(dropped_at):
            worker.advance(0.0)
        worker.stop()
    return run(Worker(world.rank, world.size, "cpu", 1), order)
