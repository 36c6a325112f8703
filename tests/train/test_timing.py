"""The timing pass: seconds per update measured from updates alone, on every topology, without a trace."""

from dataclasses import replace

import pytest
from processes import on_ranks
from small_trials import DIGITS, SMALL, task

from harness.train.timing import StepTime
from harness.train.worker import Task, Worker
from harness.train.world import World


def timed(world: World, order: Task, min_steps: int, min_s: float) -> StepTime:
    return Worker(world.rank, world.size, "cpu", 1).time_steps(order, min_steps, min_s)


def test_steps_are_timed_in_blocks_and_the_median_lies_between_the_extremes(worker, tmp_path):
    found = worker.time_steps(task(tmp_path / "trial"), min_steps=30, min_s=60.0)
    assert found.steps == 30
    assert 0 < found.fastest_s <= found.median_s <= found.slowest_s
    assert not (tmp_path / "trial").exists()


def test_the_part_of_a_step_that_waits_for_streamed_data_is_told(worker, tmp_path):
    slow = replace(SMALL, dataset={**DIGITS, "_target_": "test_loader.StreamedDigits", "seconds": 0.2})
    assert worker.time_steps(task(tmp_path, slow), 6, 60.0).loader_fraction > 0.5
    assert worker.time_steps(task(tmp_path), 12, 60.0).loader_fraction == 0.0


def test_timing_ends_after_its_seconds_where_steps_are_slow(worker, tmp_path):
    assert worker.time_steps(task(tmp_path), min_steps=60, min_s=0.0).steps == 20  # two blocks, the least there is


def test_all_ranks_time_the_same_steps(tmp_path):
    found = on_ranks(2, timed, task(tmp_path, world=2), 12, 60.0)
    assert [time.steps for time in found] == [12, 12]
    # They wait for each other at every update, so they cannot differ by much.
    assert found[0].median_s == pytest.approx(found[1].median_s, rel=1.0)
