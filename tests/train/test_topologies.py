"""Rules 1, 2, 6: what splits a batch does not change what is computed; real processes for every rank."""

from dataclasses import replace

import pytest
from small_trials import DIGITS, GHOST, SMALL, evaluations, run, run_on_ranks, task

from harness.plan.settings import Averaging

# 200 updates of 64, each followed by an evaluation: the train loss of a row is the loss of one update.
EVERY_UPDATE = replace(
    SMALL,
    dataset={**DIGITS, "train": 1024, "validation": 30, "test": 10},
    train_examples=1024,
    budget_examples=200 * 64,
    evaluate_every_examples=64,
    batch_norm=replace(GHOST, statistics_examples=32),
    averaging=Averaging(half_life_examples=256, decide_on="averaged"),
)
SPLITS = [(1, 2), (1, 4), (2, 1), (2, 2), (4, 1)]  # (world size, accumulation steps) beside (1, 1)


@pytest.fixture(scope="module")
def alone(worker, tmp_path_factory):
    """W = 1 without accumulation, what every other split is held against."""
    return evaluations(run(worker, task(tmp_path_factory.mktemp("alone"), EVERY_UPDATE, precision="float64")))


@pytest.mark.parametrize(("world", "accumulation"), SPLITS)
def test_in_float64_every_split_of_the_batch_follows_one_trajectory(alone, worker, tmp_path, world, accumulation):
    order = task(tmp_path, EVERY_UPDATE, world=world, accumulation=accumulation, precision="float64")
    rows = evaluations(run_on_ranks(order)[0] if world > 1 else run(worker, order))
    assert len(rows) == len(alone) == 200
    losses, expected = ([row["train_loss"] for row in table] for table in (rows, alone))
    assert losses == pytest.approx(expected, abs=1e-10, rel=0)
