"""P20, one process: trials one after another on a warm worker are what they are alone, and leave nothing behind."""

import gc
import json
import weakref
from dataclasses import replace
from typing import Any

import pytest
from processes import on_ranks
from small_trials import DIGITS, SMALL, WITHOUT_BATCH_NORM, events, run, run_on_ranks, task, timeless

from harness.datasets.digits import Digits
from harness.datasets.examples import Splits
from harness.plan.errors import UserError
from harness.record.files import read_json
from harness.record.journal import read_trial
from harness.train import trainer
from harness.train.learner import Learner
from harness.train.worker import Task, Worker
from harness.train.world import World

LOADED: list[int] = []
OTHER = replace(WITHOUT_BATCH_NORM, optimizer={"_target_": "torch.optim.AdamW", "lr": 0.01}, total_batch_size=32)


class LoggedDigits(Digits):
    def load(self) -> Splits:
        LOADED.append(self.sizes[0])
        return super().load()


def test_a_task_survives_the_trip_through_trial_json(worker, tmp_path):
    order = task(tmp_path, seed=4)
    run(worker, order)
    stored = read_json(tmp_path / "trial.json")
    assert Task.from_json(stored, str(tmp_path)) == order
    assert str(tmp_path) not in json.dumps(stored)  # a study can be moved


def test_a_trial_on_a_warm_worker_has_the_bits_of_one_on_a_fresh_worker(tmp_path):
    fresh = run(Worker(0, 1, "cpu", 1), task(tmp_path / "fresh"))
    warm = Worker(0, 1, "cpu", 1)
    run(warm, task(tmp_path / "other", OTHER, seed=1))
    assert timeless(run(warm, task(tmp_path / "warm"))) == timeless(fresh)


def test_a_trial_on_a_warm_gang_has_the_bits_of_one_on_a_fresh_gang(tmp_path):
    fresh = run_on_ranks(task(tmp_path / "fresh", world=2))[0]
    orders = [task(tmp_path / "other", OTHER, seed=1, world=2), task(tmp_path / "warm", world=2)]
    assert timeless(run_on_ranks(*orders)[1]) == timeless(fresh)


def test_data_are_loaded_once_for_all_trials_of_a_workload(tmp_path):
    LOADED.clear()
    warm = Worker(0, 1, "cpu", 1)
    logged = replace(SMALL, dataset={**DIGITS, "_target_": f"{__name__}.LoggedDigits"})
    for seed in range(3):
        run(warm, task(tmp_path / str(seed), logged, seed))
    assert LOADED == [256]
    larger = replace(logged, dataset={**logged.dataset, "train": 320}, train_examples=320)
    run(warm, task(tmp_path / "larger", larger))
    assert LOADED == [256, 320]


def test_data_of_another_size_than_planned_are_refused(worker, tmp_path):
    with pytest.raises(UserError, match="this node has 256 examples, but the trial was planned for 300"):
        worker.start(task(tmp_path, replace(SMALL, train_examples=300)))


def test_an_advance_ends_with_the_first_evaluation_after_its_time(worker, tmp_path):
    worker.start(task(tmp_path))
    assert [row["kind"] for row in worker.advance(0.0)] == ["ready", "evaluation"]
    assert [row["kind"] for row in worker.advance(0.0)] == ["evaluation"]
    assert [row["kind"] for row in worker.advance(1e9)] == ["evaluation"] * 4 + ["end"]
    assert worker.advance(0.0) == []


def test_starting_a_trial_drops_the_one_that_runs_and_leaves_its_files(worker, tmp_path):
    worker.start(task(tmp_path / "dropped"))
    worker.advance(0.0)
    run(worker, task(tmp_path / "next"))
    assert [row["kind"] for row in events(tmp_path / "dropped")] == ["start", "ready", "evaluation"]
    assert read_trial(tmp_path / "dropped").outcome is None
    assert read_trial(tmp_path / "next").is_finished


def test_a_trial_that_is_over_keeps_no_memory(worker, tmp_path, monkeypatch):
    kept = []

    def watched(*args: Any, **options: Any) -> Learner:
        made = Learner(*args, **options)
        kept.extend(map(weakref.ref, (made, made.model, made.optimizer)))
        return made

    monkeypatch.setattr(trainer, "Learner", watched)
    run(worker, task(tmp_path))
    assert [reference() for reference in kept] == [None] * 3


def learners_left(world: World, *orders: Task) -> int:
    worker = Worker(world.rank, world.size, "cpu", 1)
    for order in orders:
        run(worker, order)
    return sum(isinstance(thing, Learner) for thing in gc.get_objects())


def test_no_rank_of_a_gang_keeps_the_memory_of_a_trial_that_is_over(tmp_path):
    orders = [task(tmp_path / str(seed), seed=seed, world=2) for seed in range(2)]
    assert on_ranks(2, learners_left, *orders) == [0, 0]


def soak(world: World, *orders: Task) -> float:
    """Growth of memory over the second half of the trials."""
    worker = Worker(world.rank, world.size, "cpu", 1)
    sizes = []
    for order in orders:
        run(worker, order)
        sizes.append(worker.resident_bytes())
    return sizes[-1] / sizes[len(sizes) // 2]


@pytest.mark.long
@pytest.mark.parametrize("world", [1, 2])
def test_memory_stays_flat_over_a_soak_of_trials(tmp_path, world):
    orders = [task(tmp_path / str(seed), seed=seed, world=world) for seed in range(60)]
    assert max(on_ranks(world, soak, *orders)) < 1.02
