"""python -m harness +experiment=doctor: what a person sees, and the exit code a script sees."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.commands.main import main


def doctor(output: Path, *overrides: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "harness", "+experiment=doctor", f"output_dir={output}", *overrides]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=output)


@pytest.mark.long
def test_a_sound_workload_passes_every_check_it_prints(tmp_path):
    sound = doctor(tmp_path)
    assert sound.returncode == 0, sound.stderr
    assert sound.stdout.count("PASS") == 15
    assert "all 15 checks passed" in sound.stdout
    words = ["+experiment=tbs_sweep", "question.total_batch_sizes=[16]", "seeds=[0]", "cluster=inline"]
    sweep = [sys.executable, "-m", "harness", *words, "tracking=disabled", f"output_dir={tmp_path}"]
    subprocess.run(sweep, check=True, capture_output=True, timeout=120, cwd=tmp_path)
    page = (tmp_path / "tbs_sweep" / "default" / "report.html").read_text()
    assert re.search(r"all 15 checks passed on \d{4}-\d\d-\d\d, float32 on cpu<", page)


@pytest.mark.long
def test_a_workload_with_per_device_batch_norm_fails_with_exit_code_1(tmp_path):
    fault = doctor(tmp_path, "workload.batch_norm.span=per_device", "study=fault")
    assert fault.returncode == 1, fault.stderr
    assert "FAIL  2 ranks = one batch" in fault.stdout
    said = json.loads((tmp_path / "doctor" / "fault" / "doctor.json").read_text())
    assert {check["name"] for check in said["checks"] if not check["passed"]} >= {"2 ranks = one batch"}


def test_a_dry_run_says_what_would_be_examined_and_examines_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["harness", "+experiment=doctor", "dry_run=true"])
    assert main() == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("doctor: checking digits_bn_cnn with calls of its model and 10 probes of 4 updates;")
    assert not list(tmp_path.iterdir())
