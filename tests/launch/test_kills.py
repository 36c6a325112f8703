"""kill -9 of the driver at several moments, then the same command at once; and a gang that runs for long."""

import json
import os
import signal
import time

import pytest
from sweeps import SMALL, finish, start, sweep

from harness.launch.gang import InProcessGang
from harness.plan.trial import PlannedTrial
from harness.record.files import read_lines
from harness.train.trainer import Execution
from harness.train.worker import Task

pytestmark = pytest.mark.long

GRID = [*SMALL, "seeds=[0,1,2]", "cluster.checkpoint_every_s=0"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    found = sweep(tmp_path_factory.mktemp("calm"), *GRID)
    assert found.code == 0, found.err
    return found


@pytest.mark.timeout(400)
@pytest.mark.parametrize("finished_when_killed", [0, 1, 5, 12])
def test_a_killed_driver_loses_and_repeats_nothing(undisturbed, tmp_path, finished_when_killed):
    process = start(tmp_path, *GRID)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        journals = list(tmp_path.glob("*/s/trials/*/*/events.1.jsonl"))
        records = list(tmp_path.glob("*/s/trials/*/*/record.json"))
        if journals and len(records) >= finished_when_killed:
            break
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    kept = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.glob("*/s/trials/*/*/record.json")}
    process.wait()
    resumed = sweep(tmp_path, *GRID)  # at once: old workers may still be writing
    assert resumed.code == 0, resumed.out + resumed.err
    assert resumed.science() == undisturbed.science()
    # An orphan may have finished one more trial after the snapshot; nothing seen finished is ever written again.
    assert all((path.read_bytes(), path.stat().st_mtime_ns) == before for path, before in kept.items())
    finish(process, tmp_path)


def test_two_hundred_trials_on_one_gang_leave_its_memory_flat(tmp_path):
    plan = sweep(tmp_path, *SMALL, "cluster=inline", "seeds=[0]", "lr_scaling=linear", "workload.budget={epochs: 1}")
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
