"""Section 3, the study: one driver at a time, one experiment, one code, one set of data, in a folder of its own."""

import json
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_up
import pytest

from harness.plan.errors import UserError
from harness.plan.trial import PlannedTrial
from harness.record import lease as lease_module
from harness.record.files import read_json, read_lines, write_json
from harness.record.journal import Attempt
from harness.record.lease import Lease
from harness.record.study import Study, StudyFolder

DESCRIPTION = {
    "experiment": "tbs_sweep",
    "code_fingerprint": "c0de",
    "data_fingerprint": "da7a",
    "overrides": ["seeds=[0]"],
}


def planned(seed: int) -> PlannedTrial:
    return made_up.planned("none", 16, seed)


@pytest.fixture
def opened(tmp_path) -> Iterator[Study]:
    study = Study.open(tmp_path / "study", DESCRIPTION)
    yield study
    study.close()


def drive_and_hang(path: Path) -> None:
    """A driver that never gives its study up."""
    Study.open(path, DESCRIPTION)
    (path / "driving").write_text("")
    time.sleep(60)


def dead_driver(path: Path) -> None:
    """Leave the study as a killed driver leaves it."""
    child = multiprocessing.get_context("spawn").Process(target=drive_and_hang, args=(path,))
    child.start()
    while not (path / "driving").exists():
        time.sleep(0.01)
    with pytest.raises(UserError, match=rf"study {path.name} is being run by process {child.pid} on"):
        Study.open(path, DESCRIPTION)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()


def hold(path: Path, **changes: Any) -> None:
    """The third lease, as some other driver would have written it."""
    (path / "leases").mkdir(parents=True, exist_ok=True)
    held = {"host": "elsewhere", "pid": 1, "started": 0.0, "attempt": 3, "heartbeat": time.time()}
    write_json(path / "leases/3.json", {**held, **changes})


# -- the lease ------------------------------------------------------------------------------------------------------


def test_a_study_is_refused_while_its_driver_lives_and_taken_over_at_once_when_it_is_dead(tmp_path):
    dead_driver(tmp_path / "study")
    began = time.monotonic()
    study = Study.open(tmp_path / "study", DESCRIPTION)
    assert time.monotonic() - began < 5.0
    assert study.lease.number == 2
    study.close()


def test_a_driver_of_another_host_holds_a_study_until_its_heartbeat_is_stale(tmp_path):
    hold(tmp_path, heartbeat=time.time() - 10)
    with pytest.raises(UserError, match=r"by process 1 on elsewhere \(heartbeat 10 s ago\): wait for it, end it, or"):
        Study.open(tmp_path, DESCRIPTION)
    hold(tmp_path, heartbeat=time.time() - 31)
    study = Study.open(tmp_path, DESCRIPTION)
    assert study.lease.number == 4
    study.close()


def test_a_process_that_only_got_the_pid_of_a_dead_driver_does_not_hold_its_study(tmp_path):
    hold(tmp_path, host=socket.gethostname(), pid=os.getpid(), started=12345.0)
    Study.open(tmp_path, DESCRIPTION).close()


def test_a_study_given_up_can_be_opened_again_by_the_same_process(tmp_path):
    for number in (1, 2, 3):
        study = Study.open(tmp_path / "study", DESCRIPTION)
        assert study.lease.number == number
        study.close()


def test_what_nodes_said_of_their_gpus_stays_while_trials_train_on_gpus(tmp_path):
    on_gpus, on_cpus = ({**DESCRIPTION, "hardware": {"cpu": "p", "device": device}} for device in ("cuda", "cpu"))
    for description, expected in ((on_gpus, None), (on_gpus, "8 x NVIDIA H100"), (on_cpus, None)):
        study = Study.open(tmp_path / "study", description)
        assert study.description()["hardware"].get("gpu") == expected
        study.add_hardware({"gpu": "8 x NVIDIA H100"})
        assert study.description()["hardware"] == {**description["hardware"], "gpu": "8 x NVIDIA H100"}
        study.close()


def test_the_heartbeat_goes_on_while_a_study_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(lease_module, "HEARTBEAT_S", 0.02)
    study = Study.open(tmp_path / "study", DESCRIPTION)
    first = read_json(tmp_path / "study/leases/1.json")["heartbeat"]
    limit = time.monotonic() + 10
    while read_json(tmp_path / "study/leases/1.json")["heartbeat"] == first:
        assert time.monotonic() < limit
        time.sleep(0.01)
    study.close()


def test_a_driver_that_lost_its_lease_stops_before_its_next_write_and_never_takes_it_back(tmp_path, monkeypatch):
    monkeypatch.setattr(lease_module, "HEARTBEAT_S", 0.001)
    study = Study.open(tmp_path / "study", DESCRIPTION)
    theirs = tmp_path / "study/leases/2.json"
    theirs.write_text('{"attempt": 2, "host": "elsewhere", "pid": 1, "heartbeat": 0.0}')
    for write in (lambda: study.add_plan([planned(0)]), lambda: study.add_timing({"key": "a"})):
        with pytest.raises(RuntimeError, match="was taken over by another driver"):
            write()
    study.lease._thread.join(timeout=10)
    assert not study.lease._thread.is_alive()
    study.close()
    assert read_json(theirs)["host"] == "elsewhere"
    assert not read_json(tmp_path / "study/leases/1.json").get("released")
    assert study.plan() == []
    assert study.timings() == []


def take_at_once(path: Path, barrier: Any, won: Any) -> None:
    barrier.wait()
    try:
        Lease.take(path)
    except UserError:
        return
    won.put(os.getpid())
    time.sleep(60)


def test_of_drivers_that_take_a_study_at_the_same_moment_exactly_one_gets_it(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, won = context.Barrier(4), context.Queue()
    takers = [context.Process(target=take_at_once, args=(tmp_path, barrier, won)) for _ in range(4)]
    for taker in takers:
        taker.start()
    try:
        winner = won.get(timeout=60)
        losers = [taker for taker in takers if taker.pid != winner]
        for loser in losers:
            loser.join(timeout=60)
        assert [loser.exitcode for loser in losers] == [0, 0, 0]
        assert won.empty()
    finally:
        for taker in takers:
            taker.kill()
            taker.join()


def test_a_lease_that_its_taker_did_not_finish_writing_holds_until_it_is_stale(tmp_path):
    (tmp_path / "leases").mkdir()
    torn = tmp_path / "leases/7.json"
    torn.write_text("")
    with pytest.raises(UserError, match=r"is being run by process \? on an unknown host"):
        Study.open(tmp_path, DESCRIPTION)
    os.utime(torn, (time.time() - 31, time.time() - 31))
    study = Study.open(tmp_path, DESCRIPTION)
    assert study.lease.number == 8
    study.close()


# -- what a study may be continued with -------------------------------------------------------------------------------


def reopen(path: Path, changes: dict[str, Any] | None = None, allow_mixed_code: bool = False) -> dict[str, Any]:
    Study.open(path, {**DESCRIPTION, **(changes or {})}, allow_mixed_code).close()
    return read_json(path / "study.json")


@pytest.mark.parametrize(("key", "what"), [("code_fingerprint", "code"), ("data_fingerprint", "data")])
def test_records_of_other_code_or_data_are_mixed_only_on_demand_and_stay_marked(tmp_path, key, what):
    assert "mixed_code" not in reopen(tmp_path)
    with pytest.raises(UserError, match=rf"was made by other {what} \({DESCRIPTION[key]}, now 0the7\): choose another"):
        reopen(tmp_path, {key: "0the7"})
    assert reopen(tmp_path, {key: "0the7"}, allow_mixed_code=True)["mixed_code"] is True
    assert reopen(tmp_path, {key: "0the7"})["mixed_code"] is True  # a caveat for good


def test_a_study_by_listed_code_resumes_and_keeps_the_fingerprint_of_its_last_session(tmp_path):
    listed, now = "5b0063882d0e6c5d", {"harness": "aaaa", "own": None}
    reopen(tmp_path, {"code_fingerprint": listed})
    resumed = reopen(tmp_path, {"code_fingerprint": now})
    assert resumed["code_fingerprint"] == now
    assert "mixed_code" not in resumed
    with pytest.raises(UserError, match=r"was made by other code \(aaaa, now aaaa \+ own bbbb\): choose another"):
        reopen(tmp_path, {"code_fingerprint": {**now, "own": "bbbb"}})


def test_a_folder_of_another_experiment_is_refused_whatever_is_allowed(tmp_path):
    reopen(tmp_path)
    for allowed in (False, True):
        with pytest.raises(UserError, match="belongs to experiment 'tbs_sweep', not 'base_lr': choose another study"):
            reopen(tmp_path, {"experiment": "base_lr"}, allowed)


def test_a_refusal_changes_nothing(tmp_path):
    reopen(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError):
        reopen(tmp_path, {"experiment": "base_lr"})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_every_session_is_kept_and_the_day_of_creation_too(tmp_path):
    first = reopen(tmp_path)
    second = reopen(tmp_path, {"overrides": ["seeds=[0,1]"]})
    assert second["created_at"] == first["created_at"]
    assert [session["overrides"] for session in second["sessions"]] == [["seeds=[0]"], ["seeds=[0,1]"]]
    assert [session["attempt"] for session in second["sessions"]] == [1, 2]


# -- the folder -------------------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file/study", tmp_path / "file"):
        with pytest.raises(UserError, match=r"cannot be written \(.*\): choose another output_dir") as error:
            Study.open(path, DESCRIPTION)
        assert "\n" not in str(error.value)


def test_a_folder_that_everyone_may_write_is_refused(tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(UserError, match="is writable by everyone: run `chmod o-w` on it first"):
        Study.open(tmp_path / "open", DESCRIPTION)
    (tmp_path / "open").chmod(0o775)
    Study.open(tmp_path / "open", DESCRIPTION).close()


def test_a_folder_that_is_not_a_study_is_rejected(tmp_path):
    assert not StudyFolder(tmp_path).exists
    with pytest.raises(UserError, match=r"is not a study: it has no readable study\.json"):
        StudyFolder(tmp_path).description()


# -- plan, records, timings -------------------------------------------------------------------------------------------


def test_the_plan_grows_by_what_is_new_and_keeps_its_order(opened):
    opened.add_plan([planned(2), planned(0)])
    opened.add_plan([planned(0), planned(1), planned(2)])
    assert opened.plan() == [planned(2), planned(0), planned(1)]
    assert StudyFolder(opened.path).plan() == opened.plan()


@pytest.mark.parametrize("field", ["noise_scale", "adascale_ratio", "start", "keep_at_examples", "clip_norm"])
def test_a_line_written_before_a_setting_existed_is_not_planned_again(opened, field):
    opened.add_plan([planned(0), planned(1)])
    path = opened.path / "plan.jsonl"
    older = [row | {"arm": without(row["arm"], field)} for row in read_lines(path)]
    path.write_text("".join(json.dumps(row) + "\n" for row in older))
    before = path.read_bytes()
    opened.add_plan([planned(0), planned(1)])
    assert path.read_bytes() == before
    assert opened.plan() == [planned(0), planned(1)]


def without(arm: dict[str, Any], field: str) -> dict[str, Any]:
    return {**arm, "settings": {key: value for key, value in arm["settings"].items() if key != field}}


def test_an_arm_under_another_label_and_another_topology_are_lines_of_their_own(opened):
    one = planned(0)
    labelled = replace(one, trial=replace(one.trial, arm=replace(one.trial.arm, scaling_rule="linear")))
    varied = replace(one, trial=replace(one.trial, arm=replace(one.trial.arm, variant={"choice": "a"})))
    elsewhere = replace(one, topology=replace(one.topology, precision="float64"))
    lines = [one, labelled, varied, elsewhere]
    assert len({line.trial.trial_id for line in lines}) == 1
    opened.add_plan(lines)
    opened.add_plan(lines)
    assert opened.plan() == lines


def test_a_torn_line_of_the_plan_is_planned_again(opened):
    opened.add_plan([planned(0), planned(1)])
    path = opened.path / "plan.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert opened.plan() == [planned(0)]
    opened.add_plan([planned(0), planned(1)])
    assert opened.plan() == [planned(0), planned(1)]


def test_a_trials_record_is_found_under_its_id_and_topology(opened):
    attempt = Attempt.claim(opened.trial_path(planned(0)))
    attempt.start(0)
    attempt.finish({"outcome": "reached"})
    attempt.close()
    assert opened.record(planned(0)).is_finished
    assert not opened.record(planned(1)).is_finished
    assert opened.trial_path(planned(0)).parent.name == planned(0).trial.trial_id


def test_timings_are_appended(opened):
    opened.add_timing({"key": "a", "median_s": 1.0})
    opened.add_timing({"key": "b", "median_s": 2.0})
    assert [row["key"] for row in opened.timings()] == ["a", "b"]
