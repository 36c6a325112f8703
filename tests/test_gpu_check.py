"""benchmarks/gpu_check.py tries every option of Speed, and runs where there is no GPU, tiny."""

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from harness.plan.execution import Speed

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPT = [sys.executable, str(BENCHMARKS / "gpu_check.py"), "--device", "cpu"]


def test_every_option_of_speed_is_measured(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from gpu_trials import NOT_VARIED, Lab, variants  # pyright: ignore[reportMissingImports]

    lab = Lab("cpu", tmp_path)
    made = lab.settings("resnet20", 32)
    found = list(variants(made, lab.topology(made, "bf16")))
    tried = {option.name for option in fields(Speed) for _, speed in found if getattr(speed, option.name)}
    assert tried == {option.name for option in fields(Speed)} - {*NOT_VARIED}
    assert found[0] == ("eager", Speed())


def test_the_table_compares_the_fastest_of_both_sides(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from gpu_speed import table  # pyright: ignore[reportMissingImports]

    loops = [{"case": "a TBS 8", "loop": name, "step_s": s} for name, s in (("plain", 0.004), ("tuned graph", 0.002))]
    ours = [{"case": "a TBS 8", "speed": name, "step_s": s} for name, s in (("eager", 0.003), ("fused", 0.0025))]
    last = table([*loops, *ours, {"line": "of another part"}], "a card").splitlines()[-1]
    assert last == "| a TBS 8 | 4.000 | 2.000 (tuned graph) | 3.000 | 2.500 (fused) | 0 | 0.80 | 1.60 |"


@pytest.mark.long
def test_a_dry_run_without_a_gpu_has_no_fault(tmp_path):
    done = subprocess.run([*SCRIPT, "--parts", "env,streaming", "--out", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "gpu_check.json").read_text())
    assert {row["part"] for row in rows} == {"env", "streaming"}
    unknown = subprocess.run([*SCRIPT, "--parts", "sped"], capture_output=True, text=True)
    assert unknown.returncode == 2
    assert "unknown part 'sped'" in unknown.stderr
