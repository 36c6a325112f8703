"""P1, P2, P3, P6, P7, P8 over ranks: what splits a batch changes nothing; real processes for every rank."""

import time
from dataclasses import dataclass, replace
from typing import Any

import pytest
from processes import on_ranks
from small_trials import (
    DIGITS,
    EVERY_EVALUATION,
    GHOST,
    SMALL,
    WITHOUT_BATCH_NORM,
    evaluations,
    run,
    run_on_ranks,
    task,
    timeless,
)

from harness.datasets.augment import Augmentation
from harness.datasets.digits import Digits
from harness.datasets.examples import Splits
from harness.launch.gang import ProcessGang
from harness.plan.schedules import Constant
from harness.plan.settings import Averaging, BatchNorm, Settings
from harness.record.journal import read_trial
from harness.train.worker import Task, Worker
from harness.train.world import World

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
LONG = pytest.mark.long


class AugmentedDigits(Digits):
    def load(self) -> Splits:
        augment = Augmentation(pad_crop=1, flip=False, cutout=2, mixup_alpha=0.5, classes=10)
        return replace(super().load(), augment=augment)


@dataclass(kw_only=True)
class SlowToSave(Constant):
    """Rank 0 alone writes checkpoints, and this part of them takes it a while."""

    def state(self) -> dict[str, Any]:
        time.sleep(0.3)
        return {}


def table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The evaluations with every loss and norm apart, so that the rest can be compared exactly."""
    kept = []
    for row in timeless(evaluations(rows)):
        scores = {name: score["accuracy"] for name, score in row.pop("validation").items()}
        row.pop("train_loss")
        row.pop("diagnostics")
        kept.append({**row, "accuracy": scores})
    return kept


def losses(rows: list[dict[str, Any]]) -> list[float]:
    return [
        loss
        for row in evaluations(rows)
        for loss in (
            row["train_loss"],
            *(score["loss"] for score in row["validation"].values()),
            row["diagnostics"]["gradient_norm"],
            *row["diagnostics"]["update_ratio"].values(),
        )
    ]


@pytest.fixture(scope="module")
def alone(worker, tmp_path_factory):
    """W = 1 without accumulation, what every other split is held against."""
    return run(worker, task(tmp_path_factory.mktemp("alone"), EVERY_UPDATE, precision="float64"))


@pytest.mark.parametrize(
    ("world", "accumulation"),
    [(2, 1), *(pytest.param(*split, marks=LONG) for split in [(1, 2), (1, 4), (2, 2), (4, 1)])],
)
def test_in_float64_every_split_of_the_batch_gives_one_trajectory_over_200_updates_and_one_table(
    alone, worker, tmp_path, world, accumulation
):
    order = task(tmp_path, EVERY_UPDATE, world=world, accumulation=accumulation, precision="float64")
    rows = run_on_ranks(order)[0] if world > 1 else run(worker, order)
    assert len(evaluations(rows)) == 200
    assert losses(rows) == pytest.approx(losses(alone), abs=1e-10, rel=0)
    assert table(rows) == table(alone)


def test_in_float32_the_first_update_on_two_ranks_agrees_to_a_millionth(worker, tmp_path):
    first = replace(SMALL, evaluate_every_examples=64, budget_examples=128)
    one = evaluations(run(worker, task(tmp_path / "1", first)))
    two = evaluations(run_on_ranks(task(tmp_path / "2", first, world=2))[0])
    # The second loss is that of the weights after the first update.
    for alone, shared in zip(one, two, strict=True):
        assert shared["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-6)
    assert losses(two)[1] == pytest.approx(losses(one)[1], rel=1e-5)


def test_augmentation_does_not_depend_on_the_split_of_the_batch(worker, tmp_path):
    augmented = replace(SMALL, dataset={**DIGITS, "_target_": f"{__name__}.AugmentedDigits"})
    one = run(worker, task(tmp_path / "1", augmented, precision="float64"))
    four = run(worker, task(tmp_path / "4", augmented, accumulation=4, precision="float64"))
    two = run_on_ranks(task(tmp_path / "2", augmented, world=2, precision="float64"))[0]
    plain = run(worker, task(tmp_path / "plain", precision="float64"))
    assert losses(four) == pytest.approx(losses(one), abs=1e-10)
    assert losses(two) == pytest.approx(losses(one), abs=1e-10)
    assert losses(plain) != pytest.approx(losses(one), abs=1e-3)


@pytest.mark.parametrize("validation", [386, 3])
def test_four_ranks_evaluate_every_example_once_also_where_some_have_none(worker, tmp_path, validation):
    few = replace(WITHOUT_BATCH_NORM, dataset={**DIGITS, "validation": validation, "test": 2})
    one = run(worker, task(tmp_path / "1", few, precision="float64"))
    four = run_on_ranks(task(tmp_path / "4", few, world=4, precision="float64"))[0]
    assert table(four) == table(one)
    assert losses(four) == pytest.approx(losses(one), abs=1e-10)
    assert four[-1]["test"]["accuracy"] == one[-1]["test"]["accuracy"]
    for row in evaluations(four):
        correct = row["validation"]["raw"]["accuracy"] * validation
        assert correct == pytest.approx(round(correct), abs=1e-9)


def test_per_device_and_sync_are_the_spans_they_say(worker, tmp_path):
    def span(name: str, examples: int, world: int) -> list[float]:
        settings: Settings = replace(SMALL, batch_norm=BatchNorm(name, examples, statistics_examples=64))
        order = task(tmp_path / f"{name}-{examples}-{world}", settings, world=world, precision="float64")
        return losses(run_on_ranks(order)[0] if world > 1 else run(worker, order))

    assert span("per_device", 32, world=2) == pytest.approx(span("ghost", 32, world=1), abs=1e-10)
    assert span("sync", 64, world=2) == pytest.approx(span("ghost", 64, world=1), abs=1e-10)
    assert span("ghost", 32, world=1) != pytest.approx(span("ghost", 64, world=1), abs=1e-3)


@LONG
def test_a_gang_of_processes_computes_what_other_ranks_compute_and_is_quiet(tmp_path):
    gang = ProcessGang(2, "cpu", 1)
    try:
        rows = run(gang, task(tmp_path / "gang", world=2))
    finally:
        gang.close()
    assert timeless(rows) == timeless(run_on_ranks(task(tmp_path / "ranks", world=2))[0])
    assert (tmp_path / "gang/log.txt").read_text() == ""  # nobody warns of anything


# -- agreement ------------------------------------------------------------------------------------------------------


def impatient_main(world: World, order: Task) -> list[list[int]]:
    """The evaluations of each advance on a rank: rank 0 wants a pause at every one, the others none at all."""
    worker, advances = Worker(world.rank, world.size, "cpu", 1), []
    worker.start(order)
    while not advances or advances[-1]:  # after the end, an advance is empty
        rows = worker.advance(0.0 if world.is_main else 1e9)
        advances.append([row["step"] for row in evaluations(rows)])
    return advances


def test_all_ranks_pause_and_stop_together_whatever_each_of_them_would_do(tmp_path):
    order = task(tmp_path, execution=EVERY_EVALUATION, world=3, settings=replace(SMALL, total_batch_size=48))
    first, *others = on_ranks(3, impatient_main, order)
    assert first == [[3], [6], [8], [11], [14], [16], []]
    assert others == [first, first]
    assert read_trial(tmp_path).is_finished


def test_a_slow_checkpoint_of_rank_0_is_no_training_time_of_the_others(tmp_path):
    slow = replace(SMALL, schedule={"_target_": f"{__name__}.SlowToSave"})
    rows = run_on_ranks(task(tmp_path, slow, world=2, execution=EVERY_EVALUATION))[0]
    clock = rows[-1]["clock"]
    assert clock["total_s"] > 5 * 0.3
    assert clock["train_s"] < clock["total_s"] - 5 * 0.3
