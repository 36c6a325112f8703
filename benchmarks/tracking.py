"""What tracking costs a sweep: python benchmarks/tracking.py [--repeats N] [--case NAME ...] [-- OVERRIDE ...]

Runs a small sweep with tracking=disabled and with each other case in turn, every case between two sweeps without
tracking, and prints three ratios to the mean of these two (limit: 1.05), medians over the turns with their range:

    sweep       seconds from the first trial's start to the last one's record
    driver CPU  CPU seconds of the driver in that time: the cost of a queue, a thread or a retry to the process that
                must not wait. Hardly affected by other work on the machine
    all CPU     the same for the driver and all processes below it (Ray, workers, the tracking process, wandb-core): the
                cost to the machine, although the tracking process only uses time that no other process needs

and how much longer than without tracking the command ran after the last trial (limit: tracking.finish_s, 10 s).
The W&B server is the loopback server of the tests, in its own process; it fails when the first trial has ended.
`cluster=inline` as an override trains in the driver itself, where tracking's threads would cost the most.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from wandb_server import WandbServer  # pyright: ignore[reportMissingImports]

BASELINE = "disabled"
# name: (tracking mode, how the server fails once a first trial has ended; None: it does not)
CASES: dict[str, tuple[str, str | None]] = {
    "disabled": ("disabled", None),
    "offline": ("offline", None),
    "online": ("online", None),
    "absent": ("auto", "absent from the start"),
    "401": ("online", "401"),
    "500": ("online", "500"),
    "stall": ("online", "stall"),
    "dies": ("online", "dies"),
}
SWEEP = ["+experiment=tbs_sweep", "seeds=[0,1,2,3,4]", "cluster.timing_min_s=0.2"]
LOOK_S = 0.25


class Took(NamedTuple):
    """Seconds of one sweep; CPU seconds are from its first trial's start to its last one's record."""

    sweep: float
    driver_cpu: float
    all_cpu: float
    tracking_cpu: float  # of the tracking process and wandb-core, when last seen
    after: float  # from the last record to the command's end: timing pass, report, end of tracking


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="turns; default: %(default)s")
    parser.add_argument("--case", nargs="*", default=list(CASES)[1:], choices=list(CASES)[1:])
    parser.add_argument("overrides", nargs="*", default=[], help="for the sweep, e.g. seeds=[0] cluster=inline")
    given = parser.parse_args()
    taken: dict[str, list[tuple[Took, Took]]] = {name: [] for name in given.case}  # with the mean of its two baselines
    for turn in range(given.repeats):
        # Every other turn in reverse, so that drift of the machine affects every case equally.
        cases = given.case if turn % 2 == 0 else given.case[::-1]
        before = measured(turn, BASELINE, given.overrides)
        for name in cases:
            took = measured(turn, name, given.overrides)
            after = measured(turn, BASELINE, given.overrides)
            taken[name].append((took, mean(before, after)))
            before = after
    print(f"\n{given.repeats} turns, load {os.getloadavg()[0]:.0f} on {len(os.sched_getaffinity(0))} CPUs at the end")
    print(f"{'tracking':9} {'sweep':>19} {'driver CPU':>19} {'all CPU':>19} {'tracking CPU':>13} {'after':>8}")
    for name, pairs in taken.items():
        ratios = [ratio(pairs, part) for part in ("sweep", "driver_cpu", "all_cpu")]
        own = statistics.median(took.tracking_cpu for took, _ in pairs)
        more = statistics.median(took.after - base.after for took, base in pairs)
        print(f"{name:9} {ratios[0]:>19} {ratios[1]:>19} {ratios[2]:>19} {own:11.1f} s {more:+6.1f} s")
    print(noise(taken))


def ratio(pairs: Sequence[tuple[Took, Took]], part: str) -> str:
    """Median over turns of the ratio of tracked to untracked, with the range."""
    values = sorted(getattr(took, part) / getattr(base, part) for took, base in pairs)
    return f"{statistics.median(values):.3f} ({values[0]:.2f}-{values[-1]:.2f})"


def noise(taken: dict[str, list[tuple[Took, Took]]]) -> str:
    """How far two neighbouring means without tracking are apart: smaller differences cannot be resolved."""
    words = []
    for part in ("sweep", "driver_cpu", "all_cpu"):
        bases = [getattr(base, part) for pairs in taken.values() for _, base in pairs]
        apart = [max(a, b) / min(a, b) for a, b in pairwise(bases)]
        words += [f"{part} {statistics.median(apart):.3f}"] if apart else []
    return f"noise, median ratio of the larger of two such baselines to the smaller: {', '.join(words)}"


def mean(one: Took, other: Took) -> Took:
    return Took(*(statistics.mean(values) for values in zip(one, other, strict=True)))


def measured(turn: int, name: str, overrides: list[str]) -> Took:
    took = measure(name, overrides)
    print(f"turn {turn + 1}, {name}: " + ", ".join(f"{part} {value:.2f} s" for part, value in took._asdict().items()))
    sys.stdout.flush()
    return took


def measure(name: str, overrides: list[str]) -> Took:
    """One sweep in a fresh folder."""
    mode, fault = CASES[name]
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    environment = {**os.environ, **ours.recv()}
    if fault == "absent from the start":
        ours.send("dies")
    try:
        with tempfile.TemporaryDirectory() as output, tempfile.TemporaryFile() as log:
            command = [sys.executable, "-m", "harness", *SWEEP, *overrides, f"tracking={mode}", f"output_dir={output}"]
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
            meter = Meter(process.pid)
            while process.poll() is None:
                if fault in ("401", "500", "stall", "dies") and records(output):
                    ours.send(fault)
                    fault = None
                meter.look()
                time.sleep(LOOK_S)
            ended = time.time()
            log.seek(0)
            assert process.returncode == 0, log.read().decode()
            last = max(path.stat().st_mtime for path in records(output))
            return meter.took(first_start(output), last, ended)
    finally:
        server.kill()
        server.join()


def records(output: str) -> list[Path]:
    return list(Path(output).glob("*/*/trials/*/*/record.json"))


def first_start(output: str) -> float:
    """When the first trial's journal was opened."""
    starts = []
    for path in Path(output).glob("*/*/trials/*/*/events.1.jsonl"):
        with open(path, encoding="utf-8") as journal:
            starts.append(json.loads(journal.readline())["at"])
    return min(starts)


class Meter:
    """CPU seconds of a driver and of everything below it, over time."""

    def __init__(self, driver: int) -> None:
        self.driver = psutil.Process(driver)
        self.used: dict[int, float] = {driver: 0.0}  # by process, when last seen
        self.tracking: set[int] = set()
        self.looks: list[tuple[float, float, float]] = []  # when; of the driver; of all

    def look(self) -> None:
        with contextlib.suppress(psutil.Error):  # ended in between
            self._add(self.driver)
            for child in self.driver.children():
                if "harness.record.tracking.process" in child.cmdline():
                    self.tracking |= {child.pid, *(process.pid for process in child.children(recursive=True))}
            for process in self.driver.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    self._add(process)
        self.looks.append((time.time(), self.used[self.driver.pid], sum(self.used.values())))

    def _add(self, process: psutil.Process) -> None:
        self.used[process.pid] = sum(process.cpu_times()[:2])

    def took(self, began: float, last: float, ended: float) -> Took:
        def within(part: int) -> float:
            return self._at(last, lambda look: look[part]) - self._at(began, lambda look: look[part])

        tracking = sum(self.used[pid] for pid in self.tracking)
        return Took(last - began, within(1), within(2), tracking, ended - last)

    def _at(self, when: float, of: Callable[[tuple[float, float, float]], float]) -> float:
        """A reading at a moment between two looks."""
        for before, after in pairwise(self.looks):
            if before[0] <= when <= after[0]:
                return of(before) + (of(after) - of(before)) * (when - before[0]) / (after[0] - before[0])
        return of(self.looks[-1])


def serve(pipe: Connection) -> None:
    """A loopback server that fails on request."""
    server = WandbServer()
    server.__enter__()
    pipe.send(server.environment())
    while True:
        fault = pipe.recv()
        if fault == "dies":
            server.close()
        else:
            server.fault = fault


if __name__ == "__main__":
    main()
