"""What tracking costs a sweep: python benchmarks/tracking.py [--repeats N] [--case NAME ...]

Runs the embedded sweep with tracking=disabled and with each other case, side by side in turns, and prints the ratio of
the times until the last trial has ended (limit: 1.05), how long the command went on after that (timing pass and report
included; at most 10 s more than the baseline), and the CPU seconds of everything that tracks, which a busy machine does
not blur. The W&B server is the loopback one of the tests, in a process of its own.
"""

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from wandb_server import WandbServer  # pyright: ignore[reportMissingImports]

BASELINE = "disabled"
# name: (tracking mode, what the server does once the sweep has begun; None: it stays well)
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
SWEEP = ["+experiment=tbs_sweep", "cluster.timing_min_s=0.2"]


class Took(NamedTuple):
    sweep_s: float  # from the command's start to the last trial's record
    after_s: float  # from there to the command's end: timing pass, report, farewell
    cpu_s: float  # of the tracking process and wandb-core, at its last sighting


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--case", nargs="*", default=list(CASES)[1:], choices=list(CASES))
    parser.add_argument("overrides", nargs="*", default=[], help="of the sweep, e.g. seeds=[0,1]")
    given = parser.parse_args()
    names = [BASELINE, *given.case]
    taken: dict[str, list[Took]] = {name: [] for name in names}
    for turn in range(given.repeats):
        # Every other turn backwards: what drifts on the machine hits every case alike.
        for name in names if turn % 2 == 0 else reversed(names):
            taken[name].append(measure(name, given.overrides))
            print(
                f"turn {turn + 1}, {name}: {taken[name][-1].sweep_s:.1f} s, {taken[name][-1].after_s:.1f} s", flush=True
            )
    base = taken[BASELINE]
    heads = f"{'tracking':10} {'sweep':>8} {'ratio':>7} {'after it':>9} {'more':>8} {'CPU':>7}"
    print(f"\n{heads}   (medians of {given.repeats})")
    for name, times in taken.items():
        ratio = statistics.median(took.sweep_s / zero.sweep_s for took, zero in zip(times, base, strict=True))
        sweep, after, cpu = (statistics.median(values) for values in zip(*times, strict=True))
        more = after - statistics.median(took.after_s for took in base)
        print(f"{name:10} {sweep:6.1f} s {ratio:7.3f} {after:7.1f} s {more:+6.1f} s {cpu:5.1f} s")


def measure(name: str, overrides: list[str]) -> Took:
    """One sweep in a fresh folder."""
    mode, illness = CASES[name]
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    environment = {**os.environ, **ours.recv()}
    if illness == "absent from the start":
        ours.send("dies")
    with tempfile.TemporaryDirectory() as output, tempfile.TemporaryFile() as log:
        began = time.time()
        command = [sys.executable, "-m", "harness", *SWEEP, *overrides, f"tracking={mode}", f"output_dir={output}"]
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        used: dict[int, float] = {}
        while process.poll() is None:
            if illness in ("401", "500", "stall", "dies") and list(Path(output).glob("*/*/trials/*/*/record.json")):
                ours.send(illness)  # mid-sweep: a first trial has ended
                illness = None
            used |= tracking_cpu(process.pid)
            time.sleep(0.25)
        ended = time.time()
        log.seek(0)
        assert process.returncode == 0, log.read().decode()
        records = list(Path(output).glob("*/*/trials/*/*/record.json"))
        last = max(path.stat().st_mtime for path in records)
    server.kill()
    return Took(last - began, ended - last, sum(used.values()))


def tracking_cpu(driver: int) -> dict[int, float]:
    """CPU seconds so far of the tracking process below a driver and of wandb-core below that, by process."""
    found: dict[int, float] = {}
    try:
        for child in psutil.Process(driver).children():
            if "harness.record.wandb_writer" in child.cmdline():
                for process in (child, *child.children(recursive=True)):
                    found[process.pid] = sum(process.cpu_times()[:2])
    except psutil.Error:
        pass  # ended in between
    return found


def serve(pipe: Connection) -> None:
    """A loopback server that falls ill when told to."""
    server = WandbServer()
    server.__enter__()
    pipe.send(server.environment())
    while True:
        word = pipe.recv()
        if word == "dies":
            server.close()
        else:
            server.fault = word


if __name__ == "__main__":
    main()
