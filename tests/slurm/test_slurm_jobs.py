"""Real Slurm, two private nodes on this machine: jobs run to the end, survive preemption, and leave nothing behind."""

import csv
import json
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from private_slurm import ROOT, PrivateSlurm, missing_programs

from harness.record.files import read_lines
from harness.record.journal import read_trial

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(bool(missing_programs()), reason=f"not on this machine: {', '.join(missing_programs())}"),
]

MACHINE = ("clock", "examples_per_s", "attempt", "memory_peak_bytes", "machine")  # what depends on it and on luck
SWEEP = [
    "+experiment=tbs_sweep",
    "tracking=disabled",
    "seeds=[0]",
    "lr_scaling=linear",
    "question.total_batch_sizes=[256,512]",
    # The target cannot be met, and an evaluation comes once in some seconds: stops fall between evaluations.
    "workload.target.value=0.9999",
    "workload.evaluate_every_examples=51200",
    "workload.budget={epochs: 200}",
    "cluster.timing_min_s=0.1",
    "cluster.checkpoint_every_s=0.5",
    "study=s",
]
TWO_RANKS = [*SWEEP, "cluster.workers_per_trial=2"]
TWO_NODES = ("--nodes=2", "--cpus-per-task=1")


@pytest.fixture(scope="module")
def slurm() -> Iterator[PrivateSlurm]:
    private = PrivateSlurm()
    yield private
    private.close()


@pytest.fixture(autouse=True)
def nothing_is_left(slurm: PrivateSlurm) -> Iterator[None]:
    yield
    deadline = time.monotonic() + 20
    while (left := [*slurm.folder.glob("h*"), *processes_of(slurm)]) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not left


def processes_of(slurm: PrivateSlurm) -> list[psutil.Process]:
    """Live processes that a job of this Slurm started."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            if environment.get("SLURM_CONF") == slurm.env["SLURM_CONF"] and "SLURM_JOB_ID" in environment:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def science(work: Path) -> dict[str, Any]:
    """Everything recorded but what the machine has to do with."""

    def timeless(row: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in row.items() if key not in MACHINE}

    found = {}
    for folder in sorted(work.glob("outputs/*/s/trials/*/*")):
        record = read_trial(folder)
        found[folder.name] = (timeless(record.record), [timeless(row) for row in record.evaluations])
    return found


def table(work: Path) -> list[dict[str, str]]:
    """results.csv without the columns that are seconds."""
    with open(next(work.glob("outputs/*/s/results.csv"))) as file:
        rows = list(csv.DictReader(file))
    clocks = ("step_s_exclusive", "seconds_to_target_exclusive", "seconds_to_target_packed", "step_sd_exclusive")
    clocks = (*clocks, "step_n_exclusive", "step_s_packed")
    assert set(clocks) <= set(rows[0])
    return [{key: value for key, value in row.items() if key not in clocks} for row in rows]


def log(work: Path, job: int) -> str:
    return (work / f"job-{job}.out").read_text()


def rows_of(work: Path, kind: str) -> list[dict[str, Any]]:
    journals = sorted(work.glob("outputs/*/s/trials/*/*/events.*.jsonl"))
    return [row for path in journals for row in read_lines(path) if row["kind"] == kind]


def wait_for_rows(work: Path, kind: str, count: int, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while len(rows_of(work, kind)) < count:
        assert time.monotonic() < deadline, f"no {count} rows {kind!r} within {timeout_s:g} s"
        time.sleep(0.1)


def wait_for_checkpoints(work: Path, trials: int, timeout_s: float = 120.0) -> None:
    """Until so many trials have one, be it at an evaluation or between two, as fast as the machine is."""
    deadline = time.monotonic() + timeout_s
    while len({path.parent for path in work.glob("outputs/*/s/trials/*/*/checkpoint/*.pt")}) < trials:
        assert time.monotonic() < deadline, f"no {trials} trials with a checkpoint within {timeout_s:g} s"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same sweep by hand, without Slurm and Ray."""
    work = tmp_path_factory.mktemp("calm")
    command = [sys.executable, "-m", "harness", *TWO_RANKS, "cluster=inline"]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return work


def test_the_warning_before_a_preemption_saves_between_evaluations_and_the_job_queues_again(
    slurm, undisturbed, tmp_path
):
    job = slurm.sbatch(tmp_path, "many_nodes.sbatch", *TWO_RANKS, options=TWO_NODES)
    wait_for_rows(tmp_path, "ready", 1)
    time.sleep(1.0)
    slurm.run("scancel", "--batch", "--signal=USR1", str(job))  # as --signal=B:USR1@... before the limit
    assert slurm.wait(job) == ("COMPLETED", 0), log(tmp_path, job)
    assert slurm.job(job)["Restarts"] == "1"
    assert "is queued again" in log(tmp_path, job)
    assert len(rows_of(tmp_path, "drain")) == 1
    assert science(tmp_path) == science(undisturbed)
    assert table(tmp_path) == table(undisturbed)


def test_a_requeue_without_a_warning_goes_on_from_the_last_checkpoint(slurm, undisturbed, tmp_path):
    job = slurm.sbatch(tmp_path, "many_nodes.sbatch", *TWO_RANKS, options=TWO_NODES)
    wait_for_checkpoints(tmp_path, 1)
    slurm.run("scontrol", "requeue", str(job))
    assert slurm.wait(job) == ("COMPLETED", 0), log(tmp_path, job)
    assert slurm.job(job)["Restarts"] == "1"
    assert science(tmp_path) == science(undisturbed)
    assert table(tmp_path) == table(undisturbed)


def test_the_time_limit_gives_its_warning_and_the_job_goes_back_into_the_queue_by_itself(slurm, tmp_path):
    endless = [*SWEEP, "workload.evaluate_every_examples=51200000", "workload.budget={epochs: 100000}"]
    job = slurm.sbatch(tmp_path, "one_node.sbatch", *endless, options=("--time=1", "--signal=B:USR1@5"))
    deadline = time.monotonic() + 110
    while slurm.job(job)["Restarts"] == "0":
        assert time.monotonic() < deadline, log(tmp_path, job)
        time.sleep(0.5)
    slurm.run("scancel", str(job))
    assert slurm.wait(job)[0] == "CANCELLED"
    assert "is queued again" in log(tmp_path, job)


def test_too_few_resources_end_the_job_with_one_clear_line(slurm, tmp_path):
    job = slurm.sbatch(tmp_path, "many_nodes.sbatch", *SWEEP, "cluster.workers_per_trial=16", options=TWO_NODES)
    assert slurm.wait(job) == ("FAILED", 2), log(tmp_path, job)
    errors = [line for line in log(tmp_path, job).splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "16 workers" in errors[0]
    assert not list(tmp_path.glob("outputs/*/s/study.json"))


def test_submit_hands_over_the_command_and_status_reads_the_study(slurm, tmp_path):
    arguments = [*SWEEP, "workload.budget={epochs: 100}", "cluster=slurm", "cluster.slurm.time=5"]
    env = {**slurm.env, "PYTHONPATH": str(ROOT)}

    def harness(module: str, *words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", module, *words]
        return subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    submitted = harness("harness.submit", *arguments)
    assert submitted.returncode == 0, submitted.stderr
    job = int(submitted.stdout.split()[2].rstrip(":"))
    assert slurm.wait(job) == ("COMPLETED", 0), next(tmp_path.glob("outputs/*/s/slurm-*.out")).read_text()
    shown = harness("harness.status", "outputs/tbs_sweep/s")
    assert "2 of 2 trials finished" in shown.stdout
    refused = harness("harness.submit", *arguments, "cluster.slurm.partition=nowhere")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: Slurm rejected the job:")
    assert refused.stderr.count("\n") == 1
    assert json.loads((tmp_path / "outputs/tbs_sweep/s/study.json").read_text())["experiment"] == "tbs_sweep"


def test_two_jobs_on_the_same_two_nodes_run_sweeps_of_two_ranks_to_their_ends(slurm, undisturbed, tmp_path):
    works = [tmp_path / "one", tmp_path / "two"]
    for work in works:
        work.mkdir()
    jobs = [slurm.sbatch(work, "many_nodes.sbatch", *TWO_RANKS, options=TWO_NODES) for work in works]
    wait_for_rows(works[0], "ready", 1)
    shared = works[0] / f".harness-{jobs[0]}"
    assert stat.S_IMODE(shared.stat().st_mode) == 0o700
    assert stat.S_IMODE((shared / "token").stat().st_mode) == 0o600
    for job, work in zip(jobs, works, strict=True):
        assert slurm.wait(job, 250) == ("COMPLETED", 0), log(work, job)
        assert science(work) == science(undisturbed)
        assert table(work) == table(undisturbed)
    assert not shared.exists()


def test_the_jobs_of_an_array_share_one_study(slurm, tmp_path):
    several = [*SWEEP, "seeds=[0,1,2]", "cluster.share_study=true", "cluster.launcher=inline"]
    first = slurm.sbatch(tmp_path, "one_node.sbatch", *several, options=("--array=0-1",))
    for task in (0, 1):
        assert slurm.wait(f"{first}_{task}", 200) == ("COMPLETED", 0)
    trials = [read_trial(folder) for folder in tmp_path.glob("outputs/*/s/trials/*/*")]
    assert [(trial.is_finished, trial.attempts) for trial in trials] == [(True, 1)] * 6
    claims = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/*/s/trials/*/*/claim.1.json")]
    assert len({claim["lease"] for claim in claims}) == 2
    assert next(tmp_path.glob("outputs/*/s/report.html")).is_file()


def test_with_no_kill_a_lost_node_costs_its_trials_a_retry_and_not_the_job(slurm, tmp_path):
    # Trials of one rank, one on each node: after the loss the other node runs all that is left.
    job = slurm.sbatch(tmp_path, "many_nodes.sbatch", *SWEEP, options=(*TWO_NODES, "--no-kill"))
    wait_for_checkpoints(tmp_path, 2)
    slurm.lose_node("r2")
    try:
        assert slurm.wait(job, 200) == ("COMPLETED", 0), log(tmp_path, job)
    finally:
        slurm.start_node("r2")
    for left in slurm.folder.glob(f"harness-{job}-*"):
        shutil.rmtree(left)  # a machine that is gone removes nothing
    assert slurm.job(job)["Restarts"] == "0"
    assert len(science(tmp_path)) == 2
    assert "retrying" in log(tmp_path, job)


def test_without_no_kill_a_lost_node_sends_the_job_back_into_the_queue_to_go_on_when_it_is_there_again(
    slurm, undisturbed, tmp_path
):
    job = slurm.sbatch(tmp_path, "many_nodes.sbatch", *TWO_RANKS, options=TWO_NODES)
    wait_for_checkpoints(tmp_path, 1)
    slurm.lose_node("r2")
    try:
        deadline = time.monotonic() + 120
        while slurm.job(job)["Restarts"] == "0":
            assert time.monotonic() < deadline, slurm.job(job)["JobState"] + log(tmp_path, job)
            time.sleep(0.5)
    finally:
        slurm.start_node("r2")
    assert slurm.wait(job, 200) == ("COMPLETED", 0), log(tmp_path, job)
    for left in slurm.folder.glob(f"harness-{job}-*"):
        shutil.rmtree(left)  # a machine that is gone removes nothing
    assert slurm.job(job)["Restarts"] == "1"
    assert science(tmp_path) == science(undisturbed)
    assert table(tmp_path) == table(undisturbed)
