"""`harness status` tells how far a study is from its files alone, whoever drives it, without torch or Ray."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from made_up import planned

from harness import status
from harness.plan.outcome import Outcome
from harness.record.claims import Claims
from harness.record.journal import Attempt
from harness.record.lease import Lease
from harness.record.study import Study
from harness.record.submission import write_submission

DESCRIPTION = {"experiment": "tbs_sweep", "code_fingerprint": "c", "data_fingerprint": "d"}


def attempt(study: Study, seed: int) -> Attempt:
    started = Attempt.claim(study.trial_path(planned("linear", 128, seed)))
    started.start(0)
    return started


@pytest.fixture
def study(tmp_path):
    """Four trials: one reached, one failed, one under way, one waiting; its driver is this process."""
    opened = Study.open(tmp_path / "s", DESCRIPTION)
    opened.add_plan([planned("linear", 128, seed) for seed in range(4)])
    ends = {0: {"outcome": Outcome.REACHED}, 1: {"outcome": Outcome.FAILED, "error": "CUDA out of memory"}}
    for seed, record in ends.items():
        done = attempt(opened, seed)
        done.finish(record)
        done.close()
    running = attempt(opened, 2)
    running.write({"kind": "evaluation", "step": 8, "epochs": 1.0, "validation": {"raw": {"accuracy": 0.75}}})
    running.close()
    yield opened
    opened.close()


def shown(capsys, folder: Path) -> str:
    assert status.main([str(folder)]) == 0
    return capsys.readouterr().out


def test_every_trial_is_counted_in_one_state(study, capsys):
    out = shown(capsys, study.path)
    assert "tbs_sweep s: 1 of 4 trials finished" in out
    assert "1 failed, 1 reached, 1 started, 1 waiting" in out


def test_trials_under_way_show_their_last_evaluation_and_failed_ones_their_reason(study, capsys):
    out = shown(capsys, study.path)
    row = next(line for line in out.splitlines() if line.startswith("linear TBS 128 seed 2"))
    assert row.split()[5:9] == ["1", "8", "accuracy", "0.7500"]
    assert "failed: linear TBS 128 seed 1: CUDA out of memory" in out


def finish(study: Study, seed: int) -> None:
    done = attempt(study, seed)
    done.finish({"outcome": Outcome.REACHED})
    done.close()


def test_a_driver_starts_runs_with_an_estimate_and_has_finished(study, capsys):
    assert re.search(r"running: process .*, about \S+ (s|min|h) left", shown(capsys, study.path))
    fresh = Study.open(study.path.parent / "fresh", DESCRIPTION)
    fresh.add_plan([planned("linear", 128, 0)])
    assert "starting: process" in shown(capsys, fresh.path)
    finish(fresh, 0)
    assert "running: process" in shown(capsys, fresh.path)
    fresh.close()
    assert "run the same command again to resume" in shown(capsys, fresh.path)  # the report is missing
    (fresh.path / "results.json").write_text("{}")
    assert "finished (last: process" in shown(capsys, fresh.path)


SQUEUE = """#!/bin/sh
[ "$2" = --jobs=42 ] && echo "PENDING Priority"
"""


@pytest.mark.parametrize("knows", [True, False])
def test_a_study_whose_job_waits_in_the_queue_has_a_state(tmp_path, capsys, monkeypatch, knows):
    (tmp_path / "squeue").write_text(SQUEUE)
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    folder = tmp_path / "tbs_sweep" / "s"
    folder.mkdir(parents=True)
    write_submission(folder, "42" if knows else "43")
    state = "queued: Slurm job 42 is pending, Priority" if knows else "as Slurm job 43, which has started no driver"
    assert state in shown(capsys, folder)


def test_a_study_that_was_submitted_again_waits_for_the_new_job(study, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    study.close()
    write_submission(study.path, "42")
    assert "Slurm job 42, which has started no driver" in shown(capsys, study.path)


def test_a_living_driver_is_told_from_one_that_gave_up_and_one_that_died(study, capsys):
    assert "running: process" in shown(capsys, study.path)
    study.close()
    assert "ended): run the same command again to resume" in shown(capsys, study.path)
    lease = study.path / "leases/1.json"
    held = json.loads(lease.read_text())
    lease.write_text(json.dumps({**held, "released": False, "host": "elsewhere", "heartbeat": 0.0}))
    assert "died or lost its machine" in shown(capsys, study.path)


def test_every_driver_of_a_shared_study_is_shown_with_what_it_runs(study, capsys):
    for name in ("a-1", "b-2"):
        (study.path / "helpers" / name).mkdir(parents=True)
    helpers = [Lease.take(folder) for folder in (study.path / "helpers/a-1", study.path / "helpers/b-2")]
    assert Claims(study.path, study.lease).take(planned("linear", 128, 2).key)
    for seed, helper in zip((3, 1), helpers, strict=True):
        assert Claims(study.path, helper).take(planned("linear", 128, seed).key)
    attempt(study, 3).close()
    me = f"{os.getpid()} on {socket.gethostname()}"
    # The driver is this process, which may have run for hours.
    lines = re.sub(r"(heartbeat|about) [\d.]+ (s|min|h)", r"\1 N s", shown(capsys, study.path)).splitlines()
    assert [line for line in lines if "process" in line] == [
        f"  running: process {me}, attempt 1, heartbeat N s ago, trials: 1, about N s left",
        f"  helper: process {me}, heartbeat N s ago, trials: 1",
        f"  helper: process {me}, heartbeat N s ago, trials: 0",
    ]
    assert next(line for line in lines if "seed 3" in line).endswith(me)
    for helper in helpers:
        helper.release()
    out = shown(capsys, study.path)
    assert f"  helper: process {me} is gone, 1 of its trials wait for another driver" in out
    assert out.count("helper:") == 1


def test_what_is_no_study_is_refused_in_one_line(tmp_path, capsys):
    assert status.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path} is not a study: it has no readable study.json\n"


def test_it_runs_where_torch_ray_and_hydra_are_not_installed(study):
    blocked = "import sys; sys.modules.update(dict.fromkeys(('torch', 'ray', 'hydra', 'omegaconf', 'pandas')))\n"
    code = f"{blocked}from harness.commands.status import main\nsys.exit(main([{str(study.path)!r}]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "1 of 4 trials finished" in done.stdout
