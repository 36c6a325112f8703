"""kill -9 of drivers and of the servers of their own Ray, then the same command at once; a gang that runs for long."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from random_kills import GRID as INLINE
from sweeps import SMALL, Sweep, finish, inline, start, sweep, worker_pids

from harness.launch.gang import InProcessGang
from harness.plan.trial import PlannedTrial
from harness.record.files import read_lines
from harness.train.trainer import Execution
from harness.train.worker import Task

pytestmark = pytest.mark.long

GRID = [*SMALL, "seeds=[0,1,2]", "question.total_batch_sizes=[64,128]", "lr_scaling=linear"]
GRID += ["workload.budget={epochs: 20}", "workload.target.value=0.9999", "cluster.checkpoint_every_s=0"]
RESUME = "run the same command again to resume"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    found = inline(tmp_path_factory.mktemp("calm"), *GRID)
    assert found.code == 0, found.err
    return found


@pytest.mark.timeout(600)
def test_a_killed_driver_gcs_or_raylet_loses_and_repeats_nothing(undisturbed, tmp_path):
    moments, kept = random.Random(8), {}
    for what in ("gcs_server", "raylet", "driver"):
        process = start(tmp_path, *GRID)
        wait_for(lambda: worker_pids(process.pid, "TrialTrainable"))  # noqa: B023
        time.sleep(moments.uniform(0.0, 1.0))
        driver = psutil.Process(process.pid)
        victims = [driver] if what == "driver" else [c for c in driver.children() if c.name() == what]
        assert len(victims) == 1
        os.kill(victims[0].pid, signal.SIGKILL)
        ended = finish(process, tmp_path, timeout=20)  # within seconds
        if what != "driver":
            assert ended.code == 75, ended.out + ended.err
            assert ended.err == f"error: Ray's {what} is gone (killed, or out of memory): {RESUME}\n"
        now = {
            path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.glob("*/s/trials/*/*/record.json")
        }
        # An orphan may have finished one more trial; nothing seen finished is ever written again.
        assert kept.items() <= now.items()
        kept = now
    resumed = sweep(tmp_path, *GRID)
    assert resumed.code == 0, resumed.out + resumed.err
    assert resumed.science() == undisturbed.science()
    assert all((path.read_bytes(), path.stat().st_mtime_ns) == before for path, before in kept.items())
    assert len((resumed.folder / "plan.jsonl").read_text().splitlines()) == len(
        (undisturbed.folder / "plan.jsonl").read_text().splitlines()
    )


def test_random_kills_of_an_inline_driver_lose_and_repeat_nothing(tmp_path):
    command = [sys.executable, str(Path(__file__).with_name("random_kills.py")), "--kills", "20", "--seed", "5"]
    done = subprocess.run([*command, "--output", str(tmp_path)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    *_, killed = [Path(study) for study in json.loads(done.stdout)["studies"]]
    (tmp_path / "calm").mkdir()
    calm = inline(tmp_path / "calm", *INLINE)
    assert calm.code == 0, calm.out + calm.err
    assert Sweep(killed, 0, "", "").science() == calm.science()


def wait_for(happens: Callable[[], object]) -> None:
    deadline = time.monotonic() + 200
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_hundred_trials_on_one_gang_leave_its_memory_flat(tmp_path):
    plan = inline(tmp_path, *SMALL, "seeds=[0]", "lr_scaling=linear", "workload.budget={epochs: 1}")
    planned = PlannedTrial.from_json(next(iter(read_lines(plan.folder / "plan.jsonl"))))
    gang = InProcessGang("cpu", 1)
    sizes = []
    folder = tmp_path
    for number in range(200):
        folder = tmp_path / "soak" / str(number)
        settings = planned.trial.arm.settings
        gang.start(Task(f"t{number}", settings, number, planned.topology, str(folder), Execution()))
        while gang.advance(10.0)[-1]["kind"] != "end":
            pass
        sizes.append(gang.resident_bytes())
    assert json.loads((folder / "record.json").read_text())["outcome"] == "censored"
    # 1 % is below what 150 leaked copies of even this small model's state would take.
    assert sizes[-1] < sizes[49] * 1.01, [size >> 20 for size in sizes[::20]]
