"""Kills the driver of an inline sweep at seeded random moments until it has died often enough, then lets it end.

    python tests/launch/random_kills.py --kills 1000 --seed 3 --output /tmp/kills

Drivers are forked from this process, which has imported everything once: a kill costs a second instead of five. After
every kill the study on disk is checked: nothing that was finished has changed, and no trial is damaged.
"""

import argparse
import json
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from sweeps import SMALL

from harness.analyse.results import Records
from harness.commands.main import main
from harness.record.study import StudyFolder

GRID = [*SMALL, "cluster=inline", "lr_scaling=linear", "workload.budget={epochs: 12}", "cluster.checkpoint_every_s=0"]
LONGEST_S = 2.5  # a driver needs about 1 s before its first trial runs


def drive(arguments: Sequence[str], log: Path) -> int:
    """A driver in a process of its own; returns its pid."""
    if pid := os.fork():
        return pid
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    code = 1
    try:
        code = main(arguments)
    finally:
        sys.stdout.flush()
        os._exit(code)


def snapshot(study: Path) -> dict[Path, tuple[bytes, int]]:
    """Every finished trial's record: its bytes, and when they were written."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in study.glob("trials/*/*/record.json")}


def check(study: Path, before: dict[Path, tuple[bytes, int]]) -> dict[Path, tuple[bytes, int]]:
    """What is finished now; AssertionError if something that was finished is not as it was, or anything is damaged."""
    now = snapshot(study)
    assert before.items() <= now.items(), sorted(str(path) for path in before if now.get(path) != before[path])
    if (study / "plan.jsonl").exists():
        assert (damage := Records(StudyFolder(study)).damage()) == [], damage
    return now


def kill_often(output: Path, seed: int, kills: int) -> Path:
    """A study whose drivers were killed `kills` times, and then ended by one that was not; returns its folder."""
    moments, done, number = random.Random(seed), 0, 0
    study, finished, arguments = output, {}, [*GRID]
    while done < kills:  # a sweep is over before: the next one begins
        study, finished = output / f"s{number}" / "tbs_sweep/s", {}
        arguments = [*GRID, f"output_dir={output / f's{number}'}", "study=s"]
        for _ in range(kills):
            pid = drive(arguments, output / "log")
            time.sleep(moments.uniform(0.0, LONGEST_S))
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                assert os.waitstatus_to_exitcode(status) == 0, (output / "log").read_text()
                break
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            done += 1
            finished = check(study, finished)
            if done == kills:
                break
        number += 1
    _, status = os.waitpid(drive(arguments, output / "log"), 0)
    assert os.waitstatus_to_exitcode(status) == 0, (output / "log").read_text()
    check(study, finished)
    return study


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    folder = kill_often(given.output, given.seed, given.kills)
    studies = sorted(given.output.glob("s*/tbs_sweep/s"))
    print(json.dumps({"kills": given.kills, "studies": [str(s) for s in studies], "s": time.monotonic() - began}))
