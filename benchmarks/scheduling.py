"""How well the launcher schedules many trials of mixed world size, on simulated resources.

    python benchmarks/scheduling.py [--trials 2000] [--cpus 16] [--seconds 0.5] [--reports 1] [--world-sizes 1,2,4,8]

The real feed, searcher, Tune loop, placement groups, journals and records; only training is replaced by sleeping, and a
gang of W workers by one process that holds the W bundles. A slot for W = 1 is still a process of some 250 MiB, so
memory limits --cpus; the cost of hundreds of slots follows from the driver's CPU time, which hardly depends on other
load. Prints, without start-up: efficiency = (sum of W x seconds) / (CPUs x makespan); the same for each W between its
first and its last round, when all its processes run; CPU time and memory of the driver over trials done; and the bytes
that a trial leaves on disk.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

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

# Environment variables for sleeping_trainable.py.
SLEEP_S, REPORTS = "HARNESS_BENCHMARK_SLEEP_S", "HARNESS_BENCHMARK_REPORTS"
RAY_SERVERS = ("gcs_server", "raylet")
# Otherwise Ray would start a process for every simulated CPU.
NO_PRESTART = {"RAY_enable_worker_prestart": "0", "RAY_prestart_worker_first_driver": "0"}


class Ended(NamedTuple):
    """The state of the driver when a trial has ended."""

    workers: int
    at_s: float
    cpu_s: float
    resident_bytes: int


class Stopwatch:
    """A watcher that records when trials start and end, and what the driver has used by then."""

    def __init__(self) -> None:
        self.first_start_s = self.first_start_cpu_s = 0.0
        self.ended: list[Ended] = []
        self.process = psutil.Process()
        self.ray_cpu_s: dict[str, float] = {}

    def sweep_started(self, feed: Feed, slots: int) -> None:
        pass

    def say(self, line: str) -> None:
        print(line)

    def trials_over(self) -> None:
        pass

    def trial_started(self, planned: PlannedTrial) -> None:
        if not self.first_start_s:
            self.first_start_s, self.first_start_cpu_s = time.monotonic(), self._cpu_s(self.process)

    def trial_rows(self, planned: PlannedTrial, rows: Any) -> None:
        if rows[-1]["kind"] != "end":
            return
        workers = planned.topology.batch.world_size
        used = self.process.memory_info().rss
        self.ended.append(Ended(workers, time.monotonic(), self._cpu_s(self.process), used))
        if len(self.ended) % 100 == 0:
            self.ray_cpu_s = {c.name(): self._cpu_s(c) for c in self.process.children() if c.name() in RAY_SERVERS}

    def trial_failed(self, planned: PlannedTrial, reason: str, final: bool) -> None:
        print("failed:", planned.trial.label, reason)

    def _cpu_s(self, process: psutil.Process) -> float:
        times = process.cpu_times()
        return times.user + times.system


class FixedPlan:
    """The trials of one driver's study, all planned from the beginning: a TrialSource."""

    is_shared = False
    waits_for_others = False

    def __init__(self, study: Study, planned: Sequence[PlannedTrial]) -> None:
        self.study = study
        self.planned = planned
        self._ended: set[str] = set()

    def plan(self) -> Sequence[PlannedTrial]:
        return self.planned

    def is_finished(self, planned: PlannedTrial) -> bool:
        if planned.key not in self._ended and self.study.record(planned).is_finished:
            self._ended.add(planned.key)
        return planned.key in self._ended

    def limits(self) -> Mapping[str, float]:
        return {}

    def set_limit(self, planned: PlannedTrial, examples: float) -> None:
        raise AssertionError("no trial races here")

    def claim(self, planned: PlannedTrial) -> bool:
        raise AssertionError("the study is not shared")

    def ended_elsewhere(self, planned: PlannedTrial) -> None:
        raise AssertionError("no other driver runs")

    def record(self, planned: PlannedTrial) -> Mapping[str, Any]:
        return self.study.record(planned).record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--cpus", type=int, default=16, help="simulated CPUs")
    parser.add_argument("--seconds", type=float, default=0.5, help="how long a trial sleeps")
    parser.add_argument("--reports", type=int, default=1, help="reports per trial to the driver")
    parser.add_argument("--world-sizes", default="1,2,4,8")
    arguments = parser.parse_args()
    sleeping = {SLEEP_S: str(arguments.seconds), REPORTS: str(arguments.reports)}
    # Set before Ray is imported, which reads them then.
    os.environ.update({**QUIET, **NO_PRESTART, "RAY_AUTH_MODE": "token", **sleeping})
    from sleeping_trainable import SleepingTrainable

    from harness.launch import ray_tune

    ray_tune.TrialTrainable = SleepingTrainable
    sizes = tuple(map(int, arguments.world_sizes.split(",")))
    with tempfile.TemporaryDirectory() as folder:
        path, planned = Path(folder) / "study", planned_trials(arguments.trials, sizes)
        watch, began = run(path, planned, arguments.cpus)
        print_results(path, arguments, sizes, began, watch)


def planned_trials(count: int, sizes: Sequence[int]) -> list[PlannedTrial]:
    """Equally many trials of each world size; TBS grows with it."""
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
    arms = {size: workload.arm("linear", 16 * size) for size in sizes}
    planned = []
    for number in range(count):
        size = sizes[number % len(sizes)]
        planned.append(PlannedTrial(Trial(arms[size], number), Topology(plan_batch(16 * size, size))))
    return planned


def run(path: Path, planned: list[PlannedTrial], cpus: int) -> tuple[Stopwatch, float]:
    identity = {"experiment": "scheduling", "code_fingerprint": "none", "data_fingerprint": "none"}
    study = Study.open(path, {**identity, "config": {}})
    study.add_plan(planned)
    execution = Execution(drain_file=str(path / DRAIN_FLAG), study_attempt=study.lease.number)
    cluster = Cluster(
        launcher="ray", cpus=cpus, gpus_per_worker=0.0, max_failures=0, timing_min_steps=1, execution=execution
    )
    watch = Stopwatch()
    feed = Feed(FixedPlan(study, planned))
    began = time.monotonic()
    try:
        with Drain() as drain:
            # Everything counts as timed, so that there is no timing pass.
            for key in {trial.topology.key for trial in planned}:
                study.add_timing({"key": f"sleep/none/{key}"})
            run_study(study, feed, cluster, watch, [], drain)
    finally:
        study.close()
    return watch, began


def print_results(
    path: Path,
    given: argparse.Namespace,
    sizes: Sequence[int],
    began: float,
    watch: Stopwatch,
) -> None:
    count, seconds, cpus = len(watch.ended), given.seconds, given.cpus
    at_s, cpu_s = (np.array([getattr(trial, name) for trial in watch.ended]) for name in ("at_s", "cpu_s"))
    memory = np.array([trial.resident_bytes for trial in watch.ended]) / 2**20
    work_s = sum(trial.workers for trial in watch.ended) * seconds / cpus
    makespan_s = at_s[-1] - watch.first_start_s
    journals = sum(file.stat().st_size for file in path.glob("trials/*/*/events.*"))
    files = [file for file in (path / "trials").rglob("*") if file.is_file()]
    print(f"{cpu_model()}, {usable_cpus()} CPUs")
    print(f"sweep      {count} trials of W in {sizes}, {seconds:g} s in {given.reports} report(s) each, ", end="")
    print(f"on {cpus} simulated CPUs")
    print(f"start-up   {watch.first_start_s - began:.1f} s until the first trial")
    print(f"makespan   {makespan_s:.1f} s; {work_s:.1f} s at best: efficiency {work_s / makespan_s:.0%}")
    for size in sorted(sizes, reverse=True):
        if (rate := trials_per_s(watch.ended, size, cpus // size)) is not None:
            print(f"  W = {size:<4d} {rate * seconds * size / cpus:.0%} with {cpus // size} at a time, ", end="")
            print(f"{rate:.1f} trials per second")
    quarters = [slice(i * count // 4, (i + 1) * count // 4) for i in range(4)]
    spent = np.diff(cpu_s, prepend=watch.first_start_cpu_s) * 1000
    print(
        f"driver     {', '.join(f'{spent[quarter].mean():.1f}' for quarter in quarters)} ms of CPU per trial by quarter"
    )
    servers = ", ".join(f"{name} {used / count * 1000:.1f} ms" for name, used in watch.ray_cpu_s.items())
    print(f"Ray        {servers} of CPU per trial, start-up included")
    slope = np.polyfit(np.arange(count // 2, count), memory[count // 2 :], 1)[0] * 1000
    print(f"memory     {memory[0]:.0f} MiB at the beginning, {memory[-1]:.0f} MiB at the end; ", end="")
    print(f"in the second half {slope:.1f} MiB per 1,000 trials")
    print(f"disk       {journals / count / 1024:.1f} KiB of journal per trial (20 evaluations), ", end="")
    print(
        f"{sum(file.stat().st_size for file in files) / count / 1024:.1f} KiB and {len(files) / count:g} files in all"
    )


def trials_per_s(ended: Sequence[Ended], workers: int, slots: int) -> float | None:
    """Trials per second of one world size while all its slots were taken; None if there were too few trials."""
    at_s = [trial.at_s for trial in ended if trial.workers == workers]
    if len(at_s) <= 2 * slots:
        return None
    return (len(at_s) - 2 * slots) / (at_s[-slots - 1] - at_s[slots - 1])


if __name__ == "__main__":
    main()
