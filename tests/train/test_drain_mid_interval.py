"""A trial told to stop does so at its next update, on every rank, and goes on later as if nothing had been."""

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from processes import on_ranks
from small_trials import GHOST, SMALL, WITHOUT_BATCH_NORM, evaluations, events, run, run_on_ranks, task, timeless

from harness.record.drain_flag import DrainFlag, is_draining
from harness.train.checkpoint import checkpoint_steps
from harness.train.trainer import Execution
from harness.train.worker import Task, Worker
from harness.train.world import World

ATTEMPT = 3


def raised(folder: Path) -> Execution:
    """An execution under a flag that is up from the start: every start makes one update and stops."""
    flag = DrainFlag(folder / "drain", ATTEMPT)
    flag.raise_()
    flag.close()
    return Execution(drain_file=str(folder / "drain"), study_attempt=ATTEMPT)


def run_in_pieces(worker: Worker, order: Task) -> list[list[dict[str, Any]]]:
    """The rows of every start, each stopped by the raised flag, until the trial has ended."""
    starts: list[list[dict[str, Any]]] = []
    while not starts or starts[-1][-1]["kind"] != "end":
        worker.start(order)
        starts.append(worker.advance(1e9))
        assert worker.advance(1e9) == []
    return starts


def pieces_as_rank(world: World, order: Task) -> list[list[dict[str, Any]]]:
    return run_in_pieces(Worker(world.rank, world.size, "cpu", 1), order)


def science(starts: list[list[dict[str, Any]]]) -> list[Any]:
    return [timeless(row) for rows in starts for row in rows if row["kind"] in ("evaluation", "end")]


def test_a_trial_stopped_after_every_update_has_the_rows_of_one_left_alone(worker, tmp_path):
    settings = replace(SMALL, evaluate_every_examples=256)
    alone = run(worker, task(tmp_path / "alone", settings))
    starts = run_in_pieces(worker, task(tmp_path / "pieces", settings, execution=raised(tmp_path)))
    assert len(starts) == settings.budget_steps
    assert science(starts) == science([alone])
    assert [rows[-1]["step"] for rows in starts] == list(range(1, settings.budget_steps + 1))


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(replace(SMALL, batch_norm=replace(GHOST, half_life_examples=256.0)), marks=pytest.mark.long),
        replace(SMALL, batch_norm=replace(GHOST, statistics="running", half_life_examples=256.0)),
        replace(WITHOUT_BATCH_NORM, model={"_target_": "running_mean.Centred"}),
    ],
    ids=["reestimated", "running", "buffers"],
)
def test_four_ranks_stop_at_the_same_update_and_keep_what_differs_between_them(tmp_path, settings):
    # Running batch-norm averages and buffers are each rank's own between evaluations; losses are each rank's share.
    settings = replace(settings, evaluate_every_examples=256)
    alone = run_on_ranks(task(tmp_path / "alone", settings, world=4))[0]
    order = task(tmp_path / "pieces", settings, world=4, execution=raised(tmp_path))
    by_rank = on_ranks(4, pieces_as_rank, order)
    assert science(by_rank[0]) == science([alone])
    assert len({tuple(rows[-1]["step"] for rows in starts) for starts in by_rank}) == 1


def test_the_clocks_of_a_stopped_trial_go_on_where_they_stood(worker, tmp_path):
    settings = replace(SMALL, evaluate_every_examples=256)
    starts = run_in_pieces(worker, task(tmp_path, settings, execution=raised(tmp_path)))
    rows = evaluations([row for rows in starts for row in rows])
    clocks = [row["clock"]["train_s"] for row in rows]
    assert clocks == sorted(clocks)
    rates = [row["examples_per_s"] for row in rows]
    seconds = [later - earlier for earlier, later in zip([0.0, *clocks], clocks, strict=False)]
    assert rates == pytest.approx([256 / spent for spent in seconds])  # of the whole interval, not of its last piece


def test_a_stop_between_evaluations_takes_at_most_two_seconds(worker, tmp_path):
    execution = Execution(drain_file=str(tmp_path / "drain"), study_attempt=ATTEMPT)
    for number, after_s in enumerate((0.05, 0.7, 2.5)):
        long = replace(SMALL, evaluate_every_examples=64 * 10**7, budget_examples=64 * 10**7)
        flag = DrainFlag(tmp_path / "drain", ATTEMPT)
        worker.start(task(tmp_path / str(number), long, execution=execution))
        raised_at: list[float] = []
        timer = threading.Timer(after_s, lambda flag=flag, at=raised_at: (flag.raise_(), at.append(time.monotonic())))
        timer.start()
        rows = worker.advance(1e9)
        assert time.monotonic() - raised_at[0] < 2.0
        assert rows[-1]["kind"] == "drain"
        assert checkpoint_steps(tmp_path / str(number) / "checkpoint") == [rows[-1]["step"]]
        flag.close()


def test_checkpoints_come_between_evaluations_too_and_their_rows_are_on_the_disk_first(worker, tmp_path):
    settings = replace(SMALL, evaluate_every_examples=768)
    alone = run(worker, task(tmp_path / "alone", settings))
    often = run(worker, task(tmp_path / "often", settings, execution=Execution(checkpoint_every_s=0.0)))
    assert science([often]) == science([alone])
    steps = [row["step"] for row in events(tmp_path / "often") if row["kind"] == "checkpoint"]
    assert steps == [1, 3, 7]  # one update, then at most twice as many each time, as long as those take no second


def test_a_flag_stops_its_own_attempt_and_what_earlier_ones_left_but_not_the_next(tmp_path):
    path = tmp_path / "drain"
    assert not is_draining(path, 1)
    flag = DrainFlag(path, 2)
    assert is_draining(path, 1)
    assert not is_draining(path, 2)
    flag.raise_()
    assert is_draining(path, 2)
    flag.close()
    DrainFlag(path, 3).close()
    assert not is_draining(path, 3)
    path.write_text("not a number")
    assert not is_draining(path, 1)
