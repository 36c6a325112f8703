"""The timing pass measures each topology on a gang of its own and continues after a failure with a new gang."""

import statistics
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from made_up import planned

from harness.launch.gang import GangError
from harness.launch.tasks import Cluster
from harness.launch.timing_pass import TimingPass
from harness.plan.timing import Machine, RoundLimits
from harness.train.timing import Round
from harness.train.trainer import Execution
from harness.train.worker import Task

CLUSTER = Cluster(launcher="inline", gpus_per_worker=0.0, execution=Execution())
COMPILING = replace(CLUSTER, execution=Execution(compile=True))
PLAN = [planned("linear", size, 0) for size in (16, 32, 64)]
ROUNDS_S = [0.012, 0.010, 0.011]  # seconds per update, from round to round


@dataclass
class SleepingGang:
    """A gang that trains nothing, and answers nothing once its worker has died."""

    gangs: "SleepingGangs"
    is_dead: bool = False
    served: dict[int, int] = field(default_factory=dict)  # rounds by TBS

    def machine(self) -> Machine:
        return self.gangs.machine

    def time_rounds(self, task: Task, limits: RoundLimits, rounds: int) -> list[Round]:
        size = task.topology.batch.total_batch_size
        self.gangs.asked.append((size, rounds))
        self.is_dead = self.is_dead or size in self.gangs.dies_at
        if self.is_dead:
            raise GangError("a worker died")
        before = self.served.get(size, 0)
        self.served[size] = before + rounds
        steps = limits.min_steps
        return [Round(steps, steps * s, 0.0, 0.5) for s in ROUNDS_S[before : before + rounds]]

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the timing pass does not call {name}")


class SleepingGangs:
    def __init__(self, cluster: Cluster = CLUSTER, dies_at: Collection[int] = ()) -> None:
        self.cluster = cluster
        self.dies_at = dies_at
        self.machine = Machine("a processor", "", "2.9.1", 2, "a host")
        self.asked: list[tuple[int, int]] = []  # (TBS, rounds), in order
        self.warm: dict[int, SleepingGang] = {}

    def of(self, world_size: int, device: str | None = None) -> Any:
        return self.warm.setdefault(world_size, SleepingGang(self))

    def drop(self, world_size: int, device: str | None = None) -> None:
        del self.warm[world_size]


def measured(gangs: SleepingGangs, done: Collection[str] = (), say: Any = lambda line: None) -> list[dict[str, Any]]:
    return [dict(row) for row in TimingPass(PLAN, done, say, lambda: False).measure(gangs, Path("study"))]


def test_rounds_alternate_between_total_batch_sizes():
    gangs, lines = SleepingGangs(), []
    rows = measured(gangs, say=lines.append)
    assert gangs.asked == [(16, 1), (32, 1), (64, 1)] * 3
    assert all(row["interleaved"] for row in rows)
    assert lines[0] == "timing pass, round 1 of 3: TBS 16, 32, 64, alone on the machine"


def test_where_compile_is_on_they_do_not_and_one_line_says_why():
    gangs, lines = SleepingGangs(COMPILING), []
    rows = measured(gangs, say=lines.append)
    assert gangs.asked == [(16, 3), (32, 3), (64, 3)]
    assert not any(row["interleaved"] for row in rows)
    assert [line for line in lines if "compile=true would compile again" in line] == lines[:1]


def test_a_row_has_the_rounds_their_median_the_number_of_updates_and_what_it_was_measured_on():
    row = measured(SleepingGangs())[0]
    assert row["rounds_s"] == pytest.approx(ROUNDS_S)
    assert row["median_s"] == pytest.approx(statistics.median(ROUNDS_S))
    assert (row["fastest_s"], row["slowest_s"]) == pytest.approx((0.010, 0.012))
    assert row["steps"] == CLUSTER.timing_min_steps
    assert row["other_cpus"] == pytest.approx(0.5)
    assert row["load_average"] >= 0
    assert row["policy"] == "exclusive"
    named = {name: row[name] for name in ("device", "driver", "torch", "cpus", "host", "compile", "threads")}
    assert named == {
        "device": "a processor",
        "driver": "",
        "torch": "2.9.1",
        "cpus": 2,
        "host": "a host",
        "compile": False,
        "threads": 1,
    }


def test_a_failed_timing_costs_its_own_row_only():
    lines: list[str] = []
    gangs = SleepingGangs(dies_at=[32])
    rows = measured(gangs, say=lines.append)
    assert [row["total_batch_size"] for row in rows] == [16, 64]
    assert [line for line in lines if "failed" in line] == ["timing of TBS 32 failed: a worker died"]
    assert gangs.asked.count((32, 1)) == 1  # not once per round


def test_what_this_machine_has_timed_is_not_timed_again():
    keys = [row["key"] for row in measured(SleepingGangs())]
    gangs = SleepingGangs()
    assert measured(gangs, keys) == []
    assert gangs.asked == []
    gangs.machine = replace(gangs.machine, device="another processor")
    assert len(measured(gangs, keys)) == 3


def test_a_drain_ends_it_before_the_next_round():
    stopped, gangs = False, SleepingGangs()
    rows = TimingPass(PLAN, (), lambda line: None, lambda: stopped).measure(gangs, Path("study"))
    assert next(rows)["total_batch_size"] == 16
    stopped = True
    assert list(rows) == []
    assert gangs.asked == [*[(16, 1), (32, 1), (64, 1)] * 2, (16, 1)]
