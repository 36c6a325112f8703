"""The timing pass measures each topology on a gang of its own and continues after a failure with a new gang."""

from pathlib import Path
from typing import Any

from made_up import planned

from harness.launch.gang import GangError
from harness.launch.tasks import Cluster
from harness.launch.timing_pass import TimingPass
from harness.train.timing import StepTime
from harness.train.trainer import Execution
from harness.train.worker import Task

CLUSTER = Cluster(launcher="inline", gpus_per_worker=0.0, execution=Execution())
PLAN = [planned("linear", size, 0) for size in (16, 32, 64)]


class SleepingGang:
    """A gang that trains nothing: its worker dies at a TBS of 32 and answers nothing afterwards."""

    def __init__(self) -> None:
        self.is_dead = False

    def time_steps(self, task: Task, min_steps: int, min_s: float) -> StepTime:
        self.is_dead = self.is_dead or task.topology.batch.total_batch_size == 32
        if self.is_dead:
            raise GangError("a worker died")
        return StepTime(median_s=0.01, fastest_s=0.01, slowest_s=0.01, steps=min_steps)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the timing pass does not call {name}")


class SleepingGangs:
    cluster = CLUSTER

    def __init__(self) -> None:
        self.warm: dict[int, SleepingGang] = {}

    def of(self, world_size: int, device: str | None = None) -> Any:
        return self.warm.setdefault(world_size, SleepingGang())

    def drop(self, world_size: int, device: str | None = None) -> None:
        del self.warm[world_size]


def test_a_failed_timing_costs_its_own_row_only():
    lines: list[str] = []
    rows = list(TimingPass(PLAN, lines.append, lambda: False).measure(SleepingGangs(), Path("study")))
    assert [row["total_batch_size"] for row in rows] == [16, 64]
    assert "timing of TBS 32 failed: a worker died" in lines
    assert {row["policy"] for row in rows} == {"exclusive"}


def test_a_drain_stops_it_between_two_rows():
    stopped = False
    rows = TimingPass(PLAN, lambda line: None, lambda: stopped).measure(SleepingGangs(), Path("study"))
    assert next(rows)["total_batch_size"] == 16
    stopped = True
    assert list(rows) == []
