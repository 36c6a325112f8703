"""harness track: a study's runs and report from its journals; and a whole tracked sweep through the door."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tracked_studies import (
    ROOT,
    SMALL,
    Deaf,
    attempt,
    evaluations,
    expected_summary,
    has_word,
    inspected,
    open_study,
    own_summary,
    steps,
    track,
)
from wandb_server import ENTITY, WandbServer

from harness.analyse.experiment import reopen
from harness.analyse.results import Records
from harness.commands.track import main
from harness.record.study import StudyFolder
from harness.record.tracking.runs import attempt_of, study_label, trial_plans

SWEEP = [
    *("+experiment=tbs_sweep", "cluster=inline", "seeds=[0]", "question.total_batch_sizes=[128,256]"),
    *("lr_scaling=linear", "workload.target.value=0.9", "cluster.timing_min_s=0.1", "study=s"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished study that nobody tracked."""
    study, planned = open_study(tmp_path_factory.mktemp("track") / "s", SMALL)
    for trial in planned:
        attempt(study, trial, Deaf())
    study.close()
    return study, planned


def harness(output: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "harness", *SWEEP, f"output_dir={output}", *arguments]
    given = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=given, cwd=ROOT, timeout=200)


def test_nothing_imports_wandb_before_it_is_needed():
    """The mode has to be in the environment first. No other room knows wandb (test_imports)."""
    modules = sorted((ROOT / "harness" / "record").rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in modules]
    imports = ", ".join([*names, "harness.commands.track"])
    code = f"import sys, {imports}; print([m for m in sys.modules if m.startswith('wandb')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.long
def test_an_offline_rebuild_is_whole_and_the_second_one_writes_nothing(finished):
    study, planned = finished
    # Twice in one process: importing what a report takes costs more than both.
    code = f"""
from pathlib import Path
from harness.commands.track import main
def written():
    return {{path: path.stat().st_mtime_ns for path in Path({str(study.path)!r}).glob("wandb/offline-run-*/*.wandb")}}
assert main([{str(study.path)!r}, "--mode", "offline"]) == 0
before = written()
assert main([{str(study.path)!r}, "--mode", "offline"]) == 0
assert len(before) == {len(planned)} and written() == before
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    first, second = (line for line in done.stdout.splitlines() if "offline runs" in line)
    assert f"{len(planned)} offline runs" in first
    assert f"({len(planned)} written now)" in first
    assert "(0 written now)" in second
    assert "wandb sync" in done.stdout
    pytest.importorskip("wandb_workspaces")
    spec = json.loads((study.path / "wandb" / "report_spec.json").read_text())
    assert [block for block in spec["blocks"] if block["type"] == "panel-grid"]


@pytest.mark.long
def test_a_report_names_only_what_the_runs_hold_and_is_updated_in_place(tmp_path):
    pytest.importorskip("wandb_workspaces")
    study, planned = open_study(tmp_path / "s", SMALL)
    for trial in planned[:2]:
        attempt(study, trial, Deaf())
    study.close()
    with WandbServer() as server:
        first = track(study.path, "--mode", "online", **server.environment())
        assert first.returncode == 0, first.stdout + first.stderr
        (view,) = server.views
        attempt(study, planned[2], Deaf())
        older = server.of("trial")[0]
        for key in ("arm", "run_format"):  # as a version before them left it
            del older.config[key]
        again = track(study.path, "--mode", "online", **server.environment())
        assert again.returncode == 0, again.stdout + again.stderr
        assert list(server.views) == [view]
        assert server.operations.count("upsertView") == 2
        assert len(server.of("trial")) == len(planned)
        by_id = {study_label(study).run_id(trial.key, 1): trial for trial in planned}
        assert "(2 sent now)" in again.stdout
        assert older.values()["arm"] == "none/linear TBS 16"
        assert own_summary(older.summary) == expected_summary(study, by_id[older.name])
        (report,) = server.of("report")  # with a second one the charts would draw the old table too
        assert [row["arms"]["nrows"] for row in report.history] == [3 + 2, 4 + 2]  # arms, and perfect scaling
        assert report.summary["arms"] == report.history[-1]["arms"]
        rows = {key for run in server.of("trial") for row in run.history for key in row}
        summaries = {key for run in server.of("trial") for key in run.summary}
        configs = {key for run in server.of("trial") for key in run.values()}
        figures = {key for key in report.summary if key.startswith("figures/")}
        spec = json.loads(server.views[view]["spec"])
        assert [block["level"] for block in spec["blocks"] if block["type"] == "heading"].count(2) >= 6
        assert not [block for block in spec["blocks"] if block["type"] == "markdown-block" and "# " in str(block)]
        for panel in panels_of(spec):
            assert panel["viewType"] != "Media Browser" or set(panel["config"]["mediaKeys"]) == figures != set()
            wanted = metrics_named(panel)
            assert wanted["history"] <= rows
            assert wanted["summary"] <= summaries
            assert wanted["config"] <= configs


def panels_of(spec) -> list[dict]:
    """Every panel of a report's spec; each grid draws from this study's finished runs alone."""
    found = []
    for block in spec["blocks"]:
        if block["type"] == "panel-grid":
            (runs,) = block["metadata"]["runSets"]
            chosen = {item["key"]["name"]: item["value"] for item in runs["filters"]["filters"]}
            assert chosen["state"] == "finished"
            assert chosen["group"].startswith("tbs_sweep.")
            found += block["metadata"]["panelBankSectionConfig"]["panels"]
    assert {panel["viewType"] for panel in found} == {"Vega2", "Scatter Plot", "Run History Line Plot", "Media Browser"}
    return found


def metrics_named(panel) -> dict[str, set[str]]:
    """Keys of history, summary and configuration that a panel's own configuration names."""
    wanted: dict[str, set[str]] = {"history": set(), "summary": set(), "config": set()}
    config = panel["config"]
    if panel["viewType"] == "Run History Line Plot":
        wanted["history"] |= {*config["metrics"], config["xAxis"]}
    if panel["viewType"] == "Scatter Plot":
        for axis in (config["xAxis"], config["yAxis"]):
            kind, _, name = axis.partition(":")
            wanted[kind].add(name.removesuffix(".value"))
    return wanted


@pytest.mark.long
@pytest.mark.parametrize("after_s", [0.0, 0.02, 0.1, 1.5])
def test_a_driver_killed_at_any_time_loses_no_row_and_doubles_none(tmp_path, after_s):
    command = [sys.executable, str(ROOT / "tests" / "record" / "fake_driver.py"), str(tmp_path / "s"), "60"]
    given = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=given)
    assert driver.stdout is not None
    while driver.stdout.readline() != "tracked\n":
        assert driver.poll() is None
    time.sleep(after_s)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    study = StudyFolder(tmp_path / "s")
    planned = [plan.planned for plan in trial_plans(study).values()]
    for trial in planned:  # the same command again: what is unfinished goes on behind its second row
        kept = study.record(trial).evaluations
        if not study.record(trial).is_finished:
            attempt(study, trial, Deaf(), resumed_step=kept[1]["step"] if len(kept) > 1 else 0)
    done = track(study.path, "--mode", "offline")
    assert done.returncode == 0, done.stderr
    found, label = inspected(study.path / "wandb"), study_label(study)
    for trial in planned:
        rows = found.pop(label.run_id(trial.key, attempt_of(study.trial_path(trial))))
        assert steps(rows) == [row["step"] for row in evaluations(trial)]
    assert found == {}  # the torn runs of earlier attempts are gone


@pytest.mark.long
def test_a_study_that_is_being_run_is_left_to_its_driver(tmp_path):
    study, planned = open_study(tmp_path / "s", [*SMALL, "tracking=offline"])
    attempt(study, planned[0], Deaf())
    attempt(study, planned[1], Deaf(), stop_after=2)
    refused = track(study.path, "--mode", "offline")
    assert refused.returncode == 2
    assert refused.stderr == "error: study s is running and tracked (offline): wait until it has ended\n"
    with WandbServer() as server:
        done = track(study.path, "--mode", "online", **server.environment())
        assert done.returncode == 0, done.stdout + done.stderr
        assert [run.name for run in server.of("trial")] == [study_label(study).run_id(planned[0].key, 1)]
    study.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--mode", "offline"], r"error: .* is not a study: it has no readable study.json\n"),
        (["--from-wandb", "."], r"error: there is no W&B run in \.\n"),
        (
            ["--from-wandb", ".", "--column", "x=y"],
            r"error: --column must be NAME=KEY with .*, not 'x=y'\n",
        ),
    ],
)
def test_what_cannot_be_tracked_is_refused_in_one_line(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert main([str(tmp_path / "nothing"), *arguments]) == 2
    assert re.fullmatch(said, capsys.readouterr().err)


@pytest.mark.long
def test_runs_read_back_from_folder_or_server_give_the_study_s_own_places(finished, tmp_path):
    study, _ = finished

    def places(folder) -> dict:
        experiment, _ = reopen(folder)
        arms = experiment.conclude(Records(folder)).arms
        return {(arm.scaling_rule, arm.total_batch_size): (arm.epochs_by_seed, arm.test_metric) for arm in arms}

    assert track(study.path, "--mode", "offline").returncode == 0
    with WandbServer() as server:
        assert track(study.path, "--mode", "online", **server.environment()).returncode == 0
        sources = {"folder": str(study.path / "wandb"), "server": f"{ENTITY}/harness"}
        for name, source in sources.items():
            done = track(tmp_path / name, "--from-wandb", source, **server.environment())
            assert done.returncode == 0, done.stdout + done.stderr
            assert places(StudyFolder(tmp_path / name)) == places(study)


@pytest.mark.long
def test_foreign_runs_are_read_through_named_columns(tmp_path):
    code = """
import wandb
for bs in (32, 64):
    run = wandb.init(project="p", config={"bs": bs, "optim": {"lr": 0.1}}, dir=".")
    for step in range(1, 6):
        run.log({"val/acc": 0.2 * step}, step=step * 10)
    run.finish()
"""
    quiet = {**os.environ, "WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=quiet, check=True, timeout=60)
    columns = [f"--column={name}" for name in ("total_batch_size=bs", "lr=optim.lr", "metric=val/acc")]
    told = [*columns, "--target", "accuracy>=0.75", "--train-examples", "640"]
    done = track(tmp_path / "s", "--from-wandb", str(tmp_path / "wandb"), *told)
    assert done.returncode == 0, done.stdout + done.stderr
    arms = json.loads((tmp_path / "s" / "results.json").read_text())["arms"]
    assert {arm["total_batch_size"]: arm["epochs_by_seed"] for arm in arms} == {32: [2.0], 64: [4.0]}
    missing = track(tmp_path / "t", "--from-wandb", str(tmp_path / "wandb"), "--target", "accuracy>=0.75")
    assert missing.returncode == 2
    assert "give --column metric=KEY (did you mean 'val/acc'?)" in missing.stderr


@pytest.mark.long
def test_a_real_sweep_online_is_whole_on_the_server_with_its_report(tmp_path):
    pytest.importorskip("wandb_workspaces")
    with WandbServer() as server:
        done = harness(tmp_path, "tracking=online", "tracking.finish_s=60", **server.environment())
        assert done.returncode == 0, done.stdout + done.stderr
        folder = tmp_path / "tbs_sweep" / "s"
        records = [json.loads(path.read_text()) for path in folder.glob("trials/*/*/record.json")]
        runs, study = server.of("trial"), StudyFolder(folder)
        assert sorted(len(run.history) for run in runs) == sorted(record["evaluations"] for record in records)
        plans = {study_label(study).run_id(key, 1): plan.planned for key, plan in trial_plans(study).items()}
        assert len(runs) == len(plans)
        for run in runs:
            assert own_summary(run.summary) == expected_summary(study, plans[run.name])
        (ended,) = server.alerts
        assert (ended["title"], ended["severity"]) == ("tbs_sweep s: ended", "INFO")
        readable = [(path, body) for path, body in server.sent if not path.endswith(".png")]
        for text in (str(tmp_path), socket.gethostname(), str(Path.home())):
            assert not [path for path, body in readable if has_word(body, text)]
        assert len(server.views) == 1
        assert "W&B report: http://127.0.0.1" in done.stdout
        before = server.state()
        assert "(0 sent now)" in track(folder, "--mode", "online", **server.environment()).stdout
        assert server.state() == before


@pytest.mark.long
def test_a_real_sweep_is_tracked_offline_by_default_and_syncs_to_the_same_rows(tmp_path):
    done = harness(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "tbs_sweep" / "s"
    found = inspected(folder / "wandb")
    records = [json.loads(path.read_text()) for path in folder.glob("trials/*/*/record.json")]
    assert sorted(map(len, found.values())) == sorted(record["evaluations"] for record in records)
    with WandbServer() as server:
        runs = [str(path) for path in (folder / "wandb").glob("offline-run-*")]
        given = {**os.environ, **server.environment(WANDB_ERROR_REPORTING="false")}
        command = [sys.executable, "-m", "wandb", "sync", *runs]
        subprocess.run(command, env=given, cwd=tmp_path, check=True, capture_output=True, timeout=120)
        assert {run.name: steps(run.history) for run in server.of("trial")} == {k: steps(v) for k, v in found.items()}


@pytest.mark.live_wandb
@pytest.mark.skipif(
    not (os.environ.get("HARNESS_LIVE_WANDB") and os.environ.get("WANDB_API_KEY")),
    reason="needs HARNESS_LIVE_WANDB=1 and WANDB_API_KEY",
)
def test_the_hosted_service_takes_a_study_and_its_report(finished):
    study, _ = finished
    done = track(study.path, "--mode", "online", "--project", "harness-live-test")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "(0 sent now)" in track(study.path, "--mode", "online", "--project", "harness-live-test").stdout
