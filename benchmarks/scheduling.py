"""How well the launcher schedules many trials of mixed world size, on made-up resources.

    python benchmarks/scheduling.py [--trials 2000] [--cpus 64] [--seconds 1.0]

The real feed, searcher, Tune loop, placement groups, journals and records; only training is replaced by sleeping, and a
gang of W workers by one process that holds the W bundles (512 real workers would measure this machine's memory).
Prints efficiency = (sum of W x seconds) / (CPUs x makespan), start-up apart; the driver's memory against trials done;
and the bytes a trial leaves on disk.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from harness.launch.costs import Costs
from harness.launch.drain import Drain
from harness.launch.driver import run_study
from harness.launch.feed import Feed
from harness.launch.ray_cluster import QUIET
from harness.launch.tasks import Cluster
from harness.plan.batch import plan_batch
from harness.plan.duration import Duration
from harness.plan.target import Target
from harness.plan.trial import PlannedTrial, Topology, Trial
from harness.plan.workload import Workload
from harness.record.drain_flag import NAME as DRAIN_FLAG
from harness.record.provenance import cpu_model, usable_cpus
from harness.record.study import Study
from harness.train.trainer import Execution

WORLD_SIZES = (1, 2, 4, 8)
SLEEP_S = "HARNESS_BENCHMARK_SLEEP_S"  # read by sleeping_trainable.py
# Ray would start a process for every made-up CPU.
NO_PRESTART = {"RAY_enable_worker_prestart": "0", "RAY_prestart_worker_first_driver": "0"}


class Stopwatch:
    """A watcher that notes when trials start and end, and the driver's memory."""

    def __init__(self) -> None:
        self.first_start_s = 0.0
        self.ended_s: list[float] = []
        self.resident_bytes: list[int] = []

    def sweep_started(self, feed: Feed, slots: int) -> None:
        pass

    def say(self, line: str) -> None:
        print(line)

    def trial_started(self, planned: PlannedTrial) -> None:
        self.first_start_s = self.first_start_s or time.monotonic()

    def trial_rows(self, planned: PlannedTrial, rows: Any) -> None:
        self.ended_s.append(time.monotonic())
        self.resident_bytes.append(psutil.Process().memory_info().rss)

    def trial_failed(self, planned: PlannedTrial, reason: str, final: bool) -> None:
        print("failed:", planned.trial.label, reason)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--cpus", type=int, default=64, help="made up")
    parser.add_argument("--seconds", type=float, default=1.0, help="a trial sleeps")
    arguments = parser.parse_args()
    # Before Ray is imported, which reads them then.
    os.environ.update({**QUIET, **NO_PRESTART, "RAY_AUTH_MODE": "token", SLEEP_S: str(arguments.seconds)})
    from sleeping_trainable import SleepingTrainable

    from harness.launch import ray_tune

    ray_tune.TrialTrainable = SleepingTrainable
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder) / "study", planned_trials(arguments.trials), arguments.cpus, arguments.seconds)


def planned_trials(count: int) -> list[PlannedTrial]:
    """As many trials of each world size; TBS grows with it."""
    workload = Workload(
        name="sleep",
        dataset={"_target_": "none"},
        model={"_target_": "none"},
        loss="cross_entropy",
        optimizer_name="none",
        optimizer={"_target_": "none"},
        schedule={"_target_": "none"},
        train_examples=1024,
        target=Target("accuracy", 0.9, "max"),
        budget=Duration(40, "epochs"),
        base_batch_size=16,
        base_lr=0.1,
        evaluate_every_examples=512,
    )
    arms = {size: workload.arm("linear", 16 * size) for size in WORLD_SIZES}
    found = []
    for number in range(count):
        size = WORLD_SIZES[number % len(WORLD_SIZES)]
        found.append(PlannedTrial(Trial(arms[size], number), Topology(plan_batch(16 * size, size))))
    return found


def run(path: Path, planned: list[PlannedTrial], cpus: int, seconds: float) -> None:
    identity = {"experiment": "scheduling", "code_fingerprint": "none", "data_fingerprint": "none"}
    study = Study.open(path, {**identity, "config": {}})
    study.add_plan(planned)
    execution = Execution(drain_file=str(path / DRAIN_FLAG), study_attempt=study.lease.number)
    cluster = Cluster("ray", "local", cpus, 1, 0.0, 0, 1.0, 60.0, 60.0, execution)
    watch = Stopwatch()
    ended: set[str] = set()

    def is_finished(one: PlannedTrial) -> bool:
        ended.add(one.key) if study.record(one).is_finished else None
        return one.key in ended

    feed = Feed(lambda: planned, is_finished, costs=Costs(lambda one: study.record(one).record))
    began = time.monotonic()
    try:
        with Drain() as drain:
            # A timing pass of 0 entries: what is timed already is not timed again.
            for one in planned[: len(WORLD_SIZES)]:
                study.add_timing({"key": f"sleep/none/{one.topology.key}"})
            run_study(study, feed, cluster, watch, (1, 0.0), drain)
    finally:
        study.close()
    tell(path, planned, cpus, seconds, began, watch)


def tell(path: Path, planned: list[PlannedTrial], cpus: int, seconds: float, began: float, watch: Stopwatch) -> None:
    count, ended = len(planned), np.array(watch.ended_s)
    work_s = sum(one.topology.batch.world_size for one in planned) * seconds / cpus
    makespan_s = ended[-1] - watch.first_start_s
    memory = np.array(watch.resident_bytes) / 2**20
    half = count // 2
    slope = np.polyfit(np.arange(half, count), memory[half:], 1)[0] * 1000
    journals = sum(file.stat().st_size for file in path.glob("trials/*/*/events.*"))
    files = [file for file in (path / "trials").rglob("*") if file.is_file()]
    print(f"{cpu_model()}, {usable_cpus()} CPUs")
    print(f"sweep         {count} trials of W in {WORLD_SIZES}, {seconds:g} s each, on {cpus} made-up CPUs")
    print(f"start-up      {watch.first_start_s - began:.1f} s until the first trial")
    print(f"makespan      {makespan_s:.1f} s; {work_s:.1f} s at best: efficiency {work_s / makespan_s:.0%}")
    quarters = [float(np.ptp(ended[i * count // 4 : (i + 1) * count // 4])) for i in range(4)]
    print(f"by quarter    {', '.join(f'{quarter:.1f} s' for quarter in quarters)}")
    print(f"driver        {memory[0]:.0f} MiB at first, {memory[-1]:.0f} MiB at last, {slope:.1f} MiB per 1,000 trials")
    print(f"disk          {journals / count / 1024:.1f} KiB of journal a trial (20 evaluations), ", end="")
    print(
        f"{sum(file.stat().st_size for file in files) / count / 1024:.1f} KiB and {len(files) / count:g} files in all"
    )


if __name__ == "__main__":
    main()
