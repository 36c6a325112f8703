"""python -m harness +experiment=doctor: what a person sees, and the exit code a script sees."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def doctor(output: Path, *overrides: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "harness", "+experiment=doctor", f"output_dir={output}", *overrides]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=output)


@pytest.mark.long
def test_a_sound_workload_passes_every_check_it_prints(tmp_path):
    sound = doctor(tmp_path)
    assert sound.returncode == 0, sound.stderr
    assert sound.stdout.count("PASS") == 8
    assert "all 8 checks passed" in sound.stdout


@pytest.mark.long
def test_a_workload_with_per_device_batch_norm_fails_with_exit_code_1(tmp_path):
    fault = doctor(tmp_path, "workload.batch_norm.span=per_device", "study=fault")
    assert fault.returncode == 1, fault.stderr
    assert "FAIL  2 ranks = one batch" in fault.stdout
    said = json.loads((tmp_path / "doctor" / "fault" / "doctor.json").read_text())
    assert {check["name"] for check in said["checks"] if not check["passed"]} >= {"2 ranks = one batch"}
