"""The timing pass: seconds per update measured from updates alone, on every topology, without a trace."""

import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from processes import on_ranks
from small_trials import DIGITS, SMALL, task

from harness.plan.schedules import Schedule
from harness.plan.timing import Machine, RoundLimits
from harness.train.machine import MachineLoad, gpu_driver
from harness.train.timing import Round, long_enough
from harness.train.worker import Task, Worker
from harness.train.world import World

THIRTY = RoundLimits(min_steps=30, min_s=0.0, max_s=60.0)


class Ending(Schedule):
    """Has no LR beyond the last update of a trial of SMALL."""

    def shape(self, step: int) -> float:
        assert step < SMALL.budget_steps
        return 1.0


def timed(world: World, order: Task, limits: RoundLimits) -> list[Round]:
    return Worker(world.rank, world.size, "cpu", 1).time_rounds(order, limits, 2)


def test_rounds_are_measured_one_after_another_and_leave_nothing(worker, tmp_path):
    rounds = worker.time_rounds(task(tmp_path / "trial"), THIRTY, 3)
    assert [measured.steps >= 30 for measured in rounds] == [True] * 3
    assert all(measured.seconds > 0 for measured in rounds)
    assert not (tmp_path / "trial").exists()


def test_a_round_lasts_as_long_as_it_must_where_updates_are_quick(worker, tmp_path):
    (measured,) = worker.time_rounds(task(tmp_path), RoundLimits(min_steps=1, min_s=0.3, max_s=60.0), 1)
    assert measured.seconds >= 0.3


@pytest.mark.parametrize("step_s", [1e-5, 4e-4, 0.0147, 0.3, 2.0, 9.0, 60.0])
def test_a_round_is_one_block_within_the_limits(step_s):
    """The first update of each block takes three times as long, as after a restart or with cold caches."""
    limits, blocks = RoundLimits.of_pass(min_steps=30, min_s=1.0, max_s=60.0), []

    def block(steps: int) -> Round:
        blocks.append(steps)
        return Round(steps, (steps + 2) * step_s, 0.0, 0.0)

    measured = long_enough(block, limits)
    assert measured.steps == blocks[-1]
    slow = measured.seconds > 20.0 / 1.5
    assert (measured.steps >= 10 and measured.seconds >= 1 / 3) or slow
    assert measured.seconds <= 20.0 or measured.steps == 2
    assert sum(blocks) <= 2.5 * blocks[-1] + 4  # what is thrown away is less than what counts


def test_the_part_of_a_step_that_waits_for_streamed_data_is_told(worker, tmp_path):
    slow = replace(SMALL, dataset={**DIGITS, "_target_": "test_loader.StreamedDigits", "seconds": 0.2})
    few = RoundLimits(min_steps=2, min_s=0.0, max_s=60.0)
    assert worker.time_rounds(task(tmp_path, slow), few, 1)[0].loader_fraction > 0.5
    assert worker.time_rounds(task(tmp_path), few, 1)[0].loader_fraction == 0.0


@pytest.mark.long
def test_all_ranks_time_the_same_steps_and_agree_on_the_seconds(tmp_path):
    first, second = on_ranks(2, timed, task(tmp_path, world=2), THIRTY)
    assert [(r.steps, r.seconds) for r in first] == [(r.steps, r.seconds) for r in second]


def test_updates_beyond_a_trials_last_begin_its_schedule_again(worker, tmp_path):
    """Updates at the LR 0 that ends a schedule would not be those of a trial, which stops there."""
    ending = replace(SMALL, schedule={"_target_": "test_timing.Ending"})
    (measured,) = worker.time_rounds(task(tmp_path, ending), THIRTY, 1)
    assert measured.steps >= 30 > SMALL.budget_steps


# -- the machine ------------------------------------------------------------------------------------------------------


def test_a_gang_names_the_machine_that_it_computes_on(worker):
    machine = worker.machine()
    assert isinstance(machine, Machine)
    assert machine.device
    assert machine.driver == ""  # of a GPU
    assert 1 <= machine.cpus <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\nGCC", "535.183.01"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build", "570.86.15"),
        ("nothing of the kind", "unknown driver"),
    ],
)
def test_the_drivers_version_is_read_from_its_kernel_module(tmp_path, text, version):
    (tmp_path / "version").write_text(text)
    assert gpu_driver(tmp_path / "version") == version
    assert gpu_driver(tmp_path / "missing") == "unknown driver"


def test_what_other_processes_take_is_noticed_and_what_this_one_takes_is_not(worker):
    spins = "import time\nend = time.time() + 20\nwhile time.time() < end: pass"
    other = subprocess.Popen([sys.executable, "-c", spins])
    try:
        time.sleep(0.3)
        load, end = MachineLoad(worker.world), time.perf_counter() + 1.0
        while time.perf_counter() < end:
            pass
        assert load.other_cpus() > 0.4
    finally:
        other.kill()
        other.wait()
