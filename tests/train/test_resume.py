"""P9: a trial killed anywhere and resumed ends with the same bits as one left alone."""

import os
import random
import signal
import threading
import time
from dataclasses import dataclass, replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
from processes import on_ranks, start_child
from small_trials import (
    EVERY_EVALUATION,
    MLP,
    SMALL,
    WITHOUT_BATCH_NORM,
    events,
    run,
    run_in_child,
    run_on_ranks,
    task,
    timeless,
)

from harness.launch.gang import GangError, ProcessGang
from harness.plan.schedules import Constant
from harness.plan.settings import BatchNorm
from harness.plan.target import Target
from harness.record.journal import Attempt, LostTrialError, read_trial
from harness.train.checkpoint import checkpoint_steps
from harness.train.trainer import Execution
from harness.train.worker import Task, Worker
from harness.train.world import World


@dataclass(kw_only=True)
class Slow(Constant):
    """Takes its time after every evaluation, so that a kill hits the trial where it was aimed."""

    def observe(self, metric: float) -> None:
        time.sleep(0.05)


SLOW = replace(SMALL, schedule={"_target_": f"{__name__}.Slow", "warmup": 4})
KINDS = {
    "momentum and re-estimated statistics": SMALL,
    "running statistics": replace(
        SMALL, batch_norm=BatchNorm("ghost", 16, statistics="running", half_life_examples=256.0)
    ),
    "Adam, dropout and a schedule with a memory": replace(
        WITHOUT_BATCH_NORM,
        model={**MLP, "dropout": 0.3},
        optimizer={"_target_": "torch.optim.AdamW", "lr": 0.01},
        schedule={"_target_": "harness.plan.schedules.Plateau", "mode": "max", "min_delta": 0.05, "patience": 1},
    ),
    "buffers that a forward pass changes": replace(WITHOUT_BATCH_NORM, model={"_target_": "running_mean.Centred"}),
    "a crossing on its way to be confirmed": replace(
        SMALL, target=Target("accuracy", 0.3, "max", confirm=3), budget_examples=12800
    ),
}


def result(folder: Path) -> Any:
    """What the files say of a finished trial, apart from times and from how many attempts it took."""
    stored = read_trial(folder)
    assert stored.is_finished
    record = {key: value for key, value in stored.record.items() if key != "attempt"}
    return timeless(stored.evaluations), timeless(record)


def interrupt(worker: Worker, order: Task, evaluations: int) -> None:
    """Run until so many evaluations have been made and drop the trial there."""
    worker.start(order)
    for _ in range(evaluations):
        worker.advance(0.0)
    worker.stop()


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_a_trial_dropped_at_any_evaluation_and_resumed_ends_with_the_same_bits(worker, tmp_path, settings):
    run(worker, task(tmp_path / "alone", settings))
    evaluations = len(read_trial(tmp_path / "alone").evaluations)
    assert evaluations >= 5
    for dropped_at in range(1, evaluations):
        order = task(tmp_path / str(dropped_at), settings, execution=EVERY_EVALUATION)
        interrupt(worker, order, dropped_at)
        run(worker, order)
        resumed = events(Path(order.folder), attempt=2)
        assert resumed[0]["resumed_from_step"] == 2 * dropped_at
        assert result(tmp_path / str(dropped_at)) == result(tmp_path / "alone")


def test_a_trial_dropped_again_and_again_ends_with_the_same_bits(worker, tmp_path):
    run(worker, task(tmp_path / "alone"))
    order = task(tmp_path / "often", execution=EVERY_EVALUATION)
    for _ in range(5):
        interrupt(worker, order, 1)
    run(worker, order)
    assert read_trial(tmp_path / "often").attempts == 6
    assert result(tmp_path / "often") == result(tmp_path / "alone")


@pytest.mark.parametrize("rows", [1, 3, 6])
def test_a_killed_process_is_continued_by_another_with_the_same_bits(worker, tmp_path, rows):
    run(worker, task(tmp_path / "alone", SLOW))
    order = task(tmp_path / "killed", SLOW, execution=EVERY_EVALUATION)
    child = start_child(run_in_child, order)
    wait_for(lambda: len(events_so_far(order)) >= rows)
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert read_trial(tmp_path / "killed").outcome is None
    run(worker, order)
    assert result(tmp_path / "killed") == result(tmp_path / "alone")


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.002)


def events_so_far(order: Task) -> list[str]:
    path = Path(order.folder) / "events.1.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def test_without_a_checkpoint_a_trial_begins_anew_and_its_earlier_rows_do_not_count(worker, tmp_path):
    run(worker, task(tmp_path / "alone"))
    order = task(tmp_path / "anew", execution=Execution(checkpoint_every_s=3600.0))
    interrupt(worker, order, 3)
    assert len(read_trial(tmp_path / "anew").evaluations) == 3
    worker.start(order)
    worker.advance(0.0)
    assert [row["step"] for row in read_trial(tmp_path / "anew").evaluations] == [2]
    worker.stop()
    run(worker, order)
    assert result(tmp_path / "anew") == result(tmp_path / "alone")


def test_a_damaged_checkpoint_costs_one_interval_and_no_bit(worker, tmp_path):
    run(worker, task(tmp_path / "alone"))
    order = task(tmp_path / "damaged", execution=EVERY_EVALUATION)
    interrupt(worker, order, 4)
    newest = tmp_path / "damaged/checkpoint/8.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    run(worker, order)
    assert events(tmp_path / "damaged", attempt=2)[0]["resumed_from_step"] == 6
    assert result(tmp_path / "damaged") == result(tmp_path / "alone")


def test_a_death_between_the_last_row_and_the_record_costs_no_bit(worker, tmp_path, monkeypatch):
    run(worker, task(tmp_path / "alone"))
    order = task(tmp_path / "no record", execution=EVERY_EVALUATION)
    with monkeypatch.context() as patch:
        patch.setattr(Attempt, "finish", lambda self, record: (_ for _ in ()).throw(OSError("the disk is gone")))
        with pytest.raises(OSError, match="the disk is gone"):
            run(worker, order)
    assert read_trial(tmp_path / "no record").outcome is None
    run(worker, order)
    assert result(tmp_path / "no record") == result(tmp_path / "alone")


def test_a_finished_trial_leaves_no_checkpoint_behind(worker, tmp_path):
    order = task(tmp_path, execution=EVERY_EVALUATION)
    interrupt(worker, order, 4)
    assert checkpoint_steps(tmp_path / "checkpoint") == [6, 8]
    run(worker, order)
    assert not (tmp_path / "checkpoint").exists()


def test_clocks_go_on_from_the_checkpoint(worker, tmp_path):
    order = task(tmp_path, execution=EVERY_EVALUATION)
    interrupt(worker, order, 4)
    saved = read_trial(tmp_path).evaluations[-1]["clock"]
    rows = run(worker, order)
    assert all(row["clock"][key] > saved[key] for row in rows if "clock" in row for key in saved)


def test_a_writer_whose_trial_was_taken_over_stops_at_its_next_row(worker, tmp_path):
    order = task(tmp_path, execution=EVERY_EVALUATION)
    run(worker, task(tmp_path / "alone"))
    stale = Worker(0, 1, "cpu", 1)
    stale.start(order)
    stale.advance(0.0)
    worker.start(order)
    worker.advance(0.0)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(LostTrialError, match=r"attempt 1 of .* was taken over"):
        stale.advance(0.0)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    while worker.advance(1e9)[-1]["kind"] != "end":
        pass
    assert result(tmp_path) == result(tmp_path / "alone")


# -- several ranks -------------------------------------------------------------------------------------------------


def interrupted_on_ranks(world: World, first: Task | None, order: Task) -> None:
    worker = Worker(world.rank, world.size, "cpu", 1)
    if first is not None:
        run(worker, first)
    interrupt(worker, order, 3)


def interrupted_and_resumed(folder: Path, world_size: int) -> None:
    """Dropped as the first trial of a gang and resumed as the second of another; and the other way round."""
    run_on_ranks(alone := task(folder / "alone", world=world_size))
    for case in ("first", "second"):
        order = task(folder / case, execution=EVERY_EVALUATION, world=world_size)
        other = task(folder / f"beside {case}", seed=9, world=world_size)
        on_ranks(world_size, interrupted_on_ranks, other if case == "second" else None, order)
        assert read_trial(folder / case).outcome is None
        run_on_ranks(*([other] if case == "first" else []), order)
        assert events(folder / case, attempt=2)[0]["resumed_from_step"] == 6
        assert result(folder / case) == result(Path(alone.folder))


def test_on_two_ranks_a_resumed_trial_ends_with_the_same_bits_first_or_second_on_its_gang(tmp_path):
    interrupted_and_resumed(tmp_path, 2)


@pytest.mark.long
def test_on_four_ranks_a_resumed_trial_ends_with_the_same_bits_first_or_second_on_its_gang(tmp_path):
    interrupted_and_resumed(tmp_path, 4)


# -- random places --------------------------------------------------------------------------------------------------

LONGER = replace(SMALL, budget_examples=12800)


def somewhere(order: Task, rng: random.Random) -> None:
    """Return when the first attempt has written some random number of rows, and a random moment after that."""
    rows, moment_s = rng.randint(1, 100), rng.uniform(0.0, 0.02)  # an undisturbed trial writes 103
    wait_for(lambda: len(events_so_far(order)) >= rows)
    time.sleep(moment_s)


@pytest.mark.long
def test_a_process_killed_at_ten_random_places_is_continued_with_the_same_bits(worker, tmp_path):
    run(worker, task(tmp_path / "alone", LONGER))
    rng = random.Random(0)
    for number in range(10):
        order = task(tmp_path / str(number), LONGER, execution=EVERY_EVALUATION)
        child = start_child(run_in_child, order)
        somewhere(order, rng)
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        run(worker, order)
        assert result(Path(order.folder)) == result(tmp_path / "alone")


def kill_one_of_the_gang(order: Task, rng: random.Random) -> None:
    victim = rng.choice([child.pid for child in active_children()])
    somewhere(order, rng)
    assert victim is not None
    os.kill(victim, signal.SIGKILL)


@pytest.mark.long
@pytest.mark.parametrize(("world", "kills"), [(2, 6), (4, 4)])
@pytest.mark.timeout(900)
def test_a_gang_with_a_killed_worker_is_replaced_and_the_trial_continued_with_the_same_bits(tmp_path, world, kills):
    gang, rng = ProcessGang(world, "cpu", 1), random.Random(world)
    run(gang, task(tmp_path / "warm", seed=9, world=world))
    run(gang, task(tmp_path / "alone", LONGER, world=world))
    for number in range(kills):
        # The gang at hand has run trials before; its replacement runs one before every other resumption.
        order = task(tmp_path / str(number), LONGER, execution=EVERY_EVALUATION, world=world)
        killer = threading.Thread(target=kill_one_of_the_gang, args=(order, rng))
        killer.start()
        with pytest.raises(GangError):
            run(gang, order)
        killer.join()
        gang = ProcessGang(world, "cpu", 1)
        if number % 2:
            run(gang, task(tmp_path / f"before {number}", seed=9, world=world))
        run(gang, order)
        assert result(Path(order.folder)) == result(tmp_path / "alone")
    gang.close()
