"""The sink shows a sweep in W&B, and nothing that W&B does costs the sweep anything.

The server is a loopback one; SDK, wandb-core and HTTP are the real ones.
"""

import contextlib
import json
import os
import re
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from tracked_studies import (
    FIFTY_FOUR,
    SMALL,
    Deaf,
    attempt,
    evaluations,
    expected,
    expected_summary,
    has_word,
    inspected,
    open_study,
    own_summary,
    steps,
    track,
)
from wandb_server import ENTITY, KEY, WandbServer

from harness.analyse.experiment import concluded, reopen
from harness.analyse.results import Records
from harness.plan.errors import UserError
from harness.plan.tracking import Tracking
from harness.plan.trial import PlannedTrial
from harness.record.study import Study
from harness.record.tracking import settings
from harness.record.tracking.runs import study_label
from harness.record.tracking.sink import QUEUE_EVENTS, WandbSink
from harness.report.wandb_report import report_document
from harness.report.write import write_files

SECRET = "CANARY-3fb1c0de-not-for-anyone"
PATIENT_S = 120.0  # where a server's answer counts and not its time
SWITCH_S = 5.0  # a bound for what must not block, on a machine that others use too


@pytest.fixture
def server(monkeypatch):
    with WandbServer() as running:
        for name, value in running.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(settings, "REACH_S", PATIENT_S)
        yield running


def open_sink(study, mode, **more) -> tuple[WandbSink, list[str]]:
    said: list[str] = []
    sink = WandbSink.prepare(Tracking(mode, **more), said.append)
    sink.open(study.path)
    return sink, said


def without_clock(rows) -> list[dict]:
    return [{key: value for key, value in row.items() if key not in ("_timestamp", "_runtime")} for row in rows]


def check_server(server, study, planned) -> None:
    """Every journal row is there once, and every value of every summary is the journal's."""
    runs = {run.name: run for run in server.of("trial") if run.state == "finished"}
    assert len(runs) == len(planned)
    for trial in planned:
        run = runs[study_label(study).run_id(trial.key, 1)]
        assert without_clock(run.history) == expected(study, trial)
        assert own_summary(run.summary) == expected_summary(study, trial)


@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_sweep_of_54_trials_arrives_once_and_a_second_upload_changes_nothing(server, tmp_path):
    study, planned = open_study(tmp_path / "s", FIFTY_FOUR)
    assert len(planned) == 54
    sink, said = open_sink(study, "online", finish_s=120)
    for trial in planned:
        attempt(study, trial, sink)
    sink.close()
    study.close()
    assert [line for line in said if "54 runs" in line]
    check_server(server, study, planned)
    assert {run.group for run in server.runs.values()} == {study_label(study).group}
    first = track(study.path, "--mode", "online")
    assert "54 of 54 trials" in first.stdout, first.stdout + first.stderr
    before = server.state()
    second = track(study.path, "--mode", "online")
    assert "(0 sent now)" in second.stdout
    assert server.state() == before


@pytest.mark.long
def test_an_offline_sweep_asks_nobody_and_reads_back_whole(tmp_path, monkeypatch):
    study, planned = open_study(tmp_path / "s", [*SMALL, "lr_scaling.rules=[none]"])
    assert len(planned) == 2
    with Trap() as trap:
        # Whoever reads these variables (Python and Go alike) would come here.
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
            monkeypatch.setenv(name, trap.url)
        monkeypatch.setenv("WANDB_BASE_URL", trap.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        sink, said = open_sink(study, "offline", finish_s=60)
        for trial in planned:
            attempt(study, trial, sink)
        sink.close()
        assert trap.connections == 0
    study.close()
    assert f"{len(planned)} runs offline" in said[-1]
    found = inspected(study.path / "wandb")
    label = study_label(study)
    assert set(found) == {label.run_id(trial.key, 1) for trial in planned}
    for trial in planned:
        assert without_clock(found[label.run_id(trial.key, 1)]) == expected(study, trial)


class Trap:
    """A listening socket that counts who comes."""

    def __enter__(self) -> "Trap":
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                self._socket.accept()[0].close()
            except OSError:
                return
            self.connections += 1


@dataclass(frozen=True)
class Tracked:
    """What one online sweep with a retry and a failure left, in an environment full of secrets."""

    study: Study
    planned: list[PlannedTrial]
    server: WandbServer
    said: list[str]
    key_while_open: str | None


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    with WandbServer() as server, pytest.MonkeyPatch.context() as patch:
        secrets = dict.fromkeys(("HARNESS_TEST_SECRET", "WANDB_NOTES", "WANDB_TAGS"), SECRET)
        for name, value in {**server.environment(), **secrets}.items():
            patch.setenv(name, value)
        patch.setattr(settings, "REACH_S", PATIENT_S)
        study, planned = open_study(tmp_path_factory.mktemp("online") / "s")
        sink, said = open_sink(study, "online", finish_s=60)
        key = os.environ.get("WANDB_API_KEY")
        attempt(study, planned[0], sink, stop_after=4)
        sink.trial_failed(planned[0], f"RuntimeError: /home/someone/x: {SECRET}", final=False)
        attempt(study, planned[0], sink, resumed_step=evaluations(planned[0])[1]["step"])
        sink.trial_failed(planned[1], f"RuntimeError: {SECRET}", final=True)
        attempt(study, planned[2], Deaf())  # by another driver, with which the study is shared
        sink.close()
        study.close()
        assert os.environ["WANDB_API_KEY"] == KEY
        yield Tracked(study, planned, server, said, key)


@pytest.mark.long
def test_a_retry_gets_a_run_of_its_own_with_the_rows_it_keeps(tracked):
    label = study_label(tracked.study)
    first = tracked.planned[0].key
    broken, whole = (tracked.server.runs[label.run_id(first, number)] for number in (1, 2))
    assert (broken.state, len(broken.history)) == ("failed", 4)
    assert (whole.state, whole.summary["outcome"]) == ("finished", "reached")
    assert steps(whole.history) == [row["step"] for row in evaluations(tracked.planned[0])]


@pytest.mark.long
def test_the_command_says_where_the_runs_are(tracked):
    group = study_label(tracked.study).group
    assert tracked.said[0] == f"W&B: 2 runs at {tracked.server.url}/{ENTITY}/harness/groups/{group}"


@pytest.mark.long
def test_a_secret_appears_in_no_file_and_no_request(tracked):
    assert tracked.key_while_open is None  # what is started during the sweep does not inherit the key
    files = [path.read_bytes() for path in tracked.study.path.rglob("*") if path.is_file()]
    bodies = [body for _, body in tracked.server.sent]
    assert bodies
    for text in (SECRET.encode(), KEY.encode()):
        assert not [content for content in [*files, *bodies] if text in content]
    for text in (str(tracked.study.path.parent), "someone/x", socket.gethostname(), str(Path.home())):
        assert not [body for body in bodies if has_word(body, text)]


@pytest.mark.long
def test_whoever_follows_the_sweep_is_alerted_that_it_stopped_early(tracked):
    (alert,) = tracked.server.alerts
    assert alert == {
        "runName": study_label(tracked.study).report_run_id,
        "title": "tbs_sweep s: stopped early",
        "text": "3 trials: 2 reached, 1 unfinished. Run the same command again to resume.",
        "severity": "WARN",
    }


@pytest.mark.long
def test_trials_that_others_have_run_are_counted_as_lacking(tracked):
    assert "W&B lacks 1 trial that other drivers ran; to add them: harness track" in tracked.said[-1]


@pytest.mark.long
@pytest.mark.parametrize("illness", ["401", "500", "stall", "dies"])
def test_an_ill_server_delays_nobody_and_a_later_upload_recovers_everything(tmp_path, monkeypatch, illness):
    study, planned = open_study(tmp_path / "s")
    with WandbServer() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(settings, "REACH_S", PATIENT_S)
        sink, said = open_sink(study, "online", finish_s=2)
        attempt(study, planned[0], sink)
        _wait(lambda: bool(server.of("trial")))
        if illness == "dies":
            server.close()
        else:
            server.fault = illness
        began = time.monotonic()
        for trial in planned[1:]:
            attempt(study, trial, sink)
        assert time.monotonic() - began < SWITCH_S
        began = time.monotonic()
        sink.close()
        assert time.monotonic() - began < 2 + SWITCH_S
        study.close()
        assert [line for line in said if "harness track" in line]
        server.fault = None
        with WandbServer() as fresh:
            well = fresh if illness == "dies" else server
            done = track(study.path, "--mode", "online", **well.environment())
            assert done.returncode == 0, done.stdout + done.stderr
            check_server(well, study, planned)


@pytest.mark.long
def test_runs_become_whole_while_the_timing_pass_goes_on(server, tmp_path):
    study, planned = open_study(tmp_path / "s")
    sink, said = open_sink(study, "online", finish_s=60)
    for trial in planned:
        attempt(study, trial, sink)
    sink.trials_over()
    _wait(lambda: sum(run.state == "finished" for run in server.of("trial")) == len(planned), PATIENT_S)
    assert not said
    sink.close()
    study.close()
    assert f"{len(planned)} runs at" in said[0]
    check_server(server, study, planned)


@pytest.mark.long
def test_the_results_and_alerts_of_a_sweep_arrive_and_uploading_later_repeats_none(server, tmp_path):
    study, planned = open_study(tmp_path / "s")
    sink, _ = open_sink(study, "online", finish_s=120)
    attempt(study, planned[0], sink)
    for trial in planned[1:]:  # two that diverge: one alert
        attempt(study, trial, sink, diverges=True)
    sink.trials_over()
    experiment, design = reopen(study)
    findings = write_files(study.path, concluded(experiment, design, Records(study)))
    sink.close(report_document(findings, design.workload.target.metric))
    study.close()
    by_id = {study_label(study).run_id(trial.key, 1): trial for trial in planned}
    for run in server.of("trial"):
        assert own_summary(run.summary) == expected_summary(study, by_id.pop(run.name))
    assert not by_id
    first, last = server.alerts
    assert first["runName"] in {study_label(study).run_id(trial.key, 1) for trial in planned[1:]}
    assert (first["title"], first["severity"]) == ("tbs_sweep s: a trial diverged", "WARN")
    assert (last["title"], last["severity"]) == ("tbs_sweep s: ended", "WARN")
    assert last["text"].startswith("3 trials: 1 reached, 2 diverged. ")
    (report,) = server.of("report")
    figures = {path.stem: path.read_bytes() for path in (study.path / "figures").glob("*.png")}
    assert figures
    for name, content in figures.items():
        image = report.summary[f"figures/{name}"]
        assert server.uploads[f"/storage/{report.name}/{image['path']}"] == content
    (identity,) = (key for key, value in server.artifacts.items() if value["artifactTypeName"] == "results")
    sent = {path.rpartition("/")[2]: body for path, body in server.uploads.items() if f"/{identity}/" in path}
    files = ("results.csv", "results.json", "report.html")
    assert sent == {name: (study.path / name).read_bytes() for name in files}
    before = server.state(), dict(server.artifacts), list(server.alerts)
    assert "(0 sent now)" in track(study.path, "--mode", "online").stdout
    assert (server.state(), server.artifacts, server.alerts) == before


@pytest.mark.long
def test_the_time_that_an_ill_server_gets_begins_when_the_last_trial_ends(server, tmp_path):
    study, planned = open_study(tmp_path / "s")
    sink, said = open_sink(study, "online", finish_s=12)
    attempt(study, planned[0], sink)
    _wait(lambda: bool(server.of("trial")))
    server.fault = "stall"
    for trial in planned[1:]:
        attempt(study, trial, sink)
    sink.trials_over()
    time.sleep(9.0)  # timing pass and report
    began = time.monotonic()
    sink.close()
    assert time.monotonic() - began < 2.4 + SWITCH_S  # LAST_SHARE of 12 s, and not 12
    study.close()
    assert "harness track" in said[-1]


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="scheduling policies are Linux's")
def test_tracking_runs_where_no_trial_wants_the_processor(tmp_path):
    study, _ = open_study(tmp_path / "s")
    sink, _ = open_sink(study, "offline", finish_s=20)
    assert sink._process is not None
    process = psutil.Process(sink._process.pid)
    until = time.monotonic() + PATIENT_S
    core: list[psutil.Process] = []
    while not core and time.monotonic() < until:  # it is there before any trial has begun
        time.sleep(0.05)
        core = [child for child in process.children() if child.name() == "wandb-core"]
    for one in (process, *core):
        assert (os.sched_getscheduler(one.pid), one.nice()) == (os.SCHED_IDLE, 19)
    assert core
    sink.close()
    study.close()


def test_a_tracking_process_that_hangs_is_one_warning_and_no_call_waits_for_it(tmp_path):
    study, planned = open_study(tmp_path / "s")
    sink, said = open_sink(study, "offline", finish_s=0.5)
    assert sink._process is not None
    os.kill(sink._process.pid, signal.SIGSTOP)
    row = {**evaluations(planned[0])[0], "padding": "x" * 500}
    slowest = 0.0
    for _ in range(QUEUE_EVENTS + 2000):
        began = time.monotonic()
        sink.trial_rows(planned[0], [row])
        slowest = max(slowest, time.monotonic() - began)
    began = time.monotonic()
    sink.close()
    assert time.monotonic() - began < 0.5 + SWITCH_S
    study.close()
    assert slowest < 1.0
    (line,) = said
    assert line.startswith("W&B did not receive everything (it cannot keep up with the sweep); ")
    assert "harness track" in line


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="scheduling policies are Linux's")
def test_offline_runs_that_got_no_processor_time_are_finished_at_normal_priority(tmp_path):
    study, planned = open_study(tmp_path / "s")
    sink, said = open_sink(study, "offline", finish_s=1.0)
    assert sink._process is not None
    os.kill(sink._process.pid, signal.SIGSTOP)  # as on a machine where others want every processor
    for trial in planned:
        attempt(study, trial, sink)
    sink.trials_over()
    priorities: set[tuple[int, int]] = set()
    closing = threading.Thread(target=sink.close, args=[{}])  # with a report: the sweep is over
    closing.start()
    while closing.is_alive():
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error, OSError):
                if "harness.record.tracking.finish_offline" in process.cmdline():
                    priorities.add((os.sched_getscheduler(process.pid), process.nice()))
        time.sleep(0.02)
    study.close()
    assert priorities == {(os.sched_getscheduler(0), psutil.Process().nice())}
    (line,) = said
    assert line.startswith(f"W&B: {len(planned)} runs offline in ")
    found, label = inspected(study.path / "wandb"), study_label(study)
    for trial in planned:
        assert without_clock(found.pop(label.run_id(trial.key, 1))) == expected(study, trial)
    assert not found


def test_online_without_a_key_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "REACH_S", PATIENT_S)
    monkeypatch.setenv("HOME", str(tmp_path))  # no ~/.netrc
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.delenv("WANDB_API_KEY", raising=False)
        with pytest.raises(UserError, match=r"tracking=online: there is no W&B key"):
            WandbSink.prepare(Tracking("online"), print)


@pytest.mark.long
def test_auto_falls_back_and_says_why(tmp_path, monkeypatch):
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
    study, planned = open_study(tmp_path / "s")
    sink, said = open_sink(study, "auto", finish_s=60)
    attempt(study, planned[0], sink)
    sink.close()
    study.close()
    assert re.match(r"W&B offline: http://127.0.0.1:\d+ cannot be reached .*refused", said[0])
    assert list((study.path / "wandb").glob("offline-run-*"))


@pytest.mark.long
def test_event_files_hold_the_rows_for_tensorboard(tmp_path):
    study, planned = open_study(tmp_path / "s")
    sink, _ = open_sink(study, "disabled", tensorboard=True, finish_s=60)
    attempt(study, planned[0], sink)
    sink.close()
    study.close()
    folder = study.path / "tensorboard" / "none+linear_TBS_16_seed_0"
    values = dict(_scalars(next(folder.rglob("events.*")), "validation/accuracy"))
    rows = evaluations(planned[0])
    assert values == pytest.approx({row["examples"]: row["validation"]["averaged"]["accuracy"] for row in rows})


def _scalars(path: Path, tag: str):
    """(x, value) of one tag in a file of TensorBoard's records: length, checksum, event, checksum."""
    from tensorboardX.proto import event_pb2

    content, at = path.read_bytes(), 0
    while at < len(content):
        length = int.from_bytes(content[at : at + 8], "little")
        event = event_pb2.Event.FromString(  # pyright: ignore[reportAttributeAccessIssue]
            content[at + 12 : at + 12 + length]
        )
        at += 16 + length
        yield from ((event.step, value.simple_value) for value in event.summary.value if value.tag == tag)


def _wait(until, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_server_of_these_tests_fails_on_what_it_does_not_know():
    server = WandbServer()
    with server:
        query = json.dumps({"query": "mutation DropEverything { x }"}).encode()
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{server.url}/graphql", query)
        assert "DropEverything" in server.unexpected.pop()
