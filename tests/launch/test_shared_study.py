"""Several drivers of one study share its trials: each runs once, the first one reports, and a dead one is replaced."""

import json
import re
import time

import pytest
from sweeps import SMALL, finish, inline, start, sweep

pytestmark = pytest.mark.long

# Six trials of some seconds: nobody meets the target.
TRIALS = [
    *SMALL,
    "lr_scaling=linear",
    "seeds=[0,1,2]",
    "workload.target.value=0.9999",
    "workload.budget={epochs: 20}",
    "cluster=inline",
    "cluster.checkpoint_every_s=0.5",
]
SHARED = [*TRIALS, "cluster.share_study=true"]


def owners(found):
    return {json.loads(path.read_text())["lease"] for path in found.folder.glob("trials/*/*/claim.*.json")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    found = inline(tmp_path_factory.mktemp("alone"), *TRIALS)
    assert found.code == 0, found.err
    return found


def test_two_drivers_started_at_once_run_every_trial_once(alone, tmp_path):
    drivers = [start(tmp_path, *SHARED, "tracking=offline") for _ in range(2)]
    found = [finish(driver, tmp_path) for driver in drivers]
    assert [one.code for one in found] == [0, 0], [one.out + one.err for one in found]
    assert found[0].science() == alone.science()
    assert {record["attempt"] for record in found[0].records().values()} == {1}
    assert len(owners(found[0])) == 2
    assert sum("the one that leads the study writes the report" in one.out for one in found) == 1
    assert (found[0].folder / "report.html").is_file()
    # The leader shows and tracks what the other one ran as well.
    (leader,) = (one.out for one in found if "the one that leads the study writes the report" not in one.out)
    assert re.findall(r"^\[(\d)/6\]", leader, re.MULTILINE) == list("123456")
    assert "by another driver" in leader
    assert "W&B: 6 runs offline" in leader


def test_what_a_killed_helper_was_running_is_finished_by_the_driver_that_leads(alone, tmp_path):
    leader = start(tmp_path, *SHARED)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*/s/trials/*/*/claim.1.json")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    helper = start(tmp_path, *SHARED)
    while not any("helpers" in path.read_text() for path in tmp_path.glob("*/s/trials/*/*/claim.1.json")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    helper.kill()
    helper.communicate()
    found = finish(leader, tmp_path)
    assert found.code == 0, found.out + found.err
    assert found.science() == alone.science()
    assert list(found.folder.glob("trials/*/*/claim.2.json"))
    assert owners(found) == {".", next(iter(owners(found) - {"."}))}


def test_without_sharing_a_second_driver_is_refused(tmp_path):
    leader = start(tmp_path, *TRIALS)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*/s/trials/*/*/events.*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    second = sweep(tmp_path, *TRIALS)
    leader.terminate()
    leader.communicate()
    assert second.code == 2
    assert "is being run by process" in second.err
