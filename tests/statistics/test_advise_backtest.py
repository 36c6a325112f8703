"""The back-test of the step-time model on the shipped tables stays within the errors that docs/advise.md states."""

import json
from pathlib import Path

import pytest

from benchmarks.advise_backtest import main, prices_of_speed
from benchmarks.advise_tables import read_table
from harness.published.shipped import TABLES

SCALING = [TABLES / f"{name}.csv" for name in ("bert_large_a100_strong_scaling", "llm_foundry_weak_scaling")]
RESULTS = TABLES / "mlperf_results_h100.csv"


@pytest.mark.long
def test_published_rows_are_predicted_within_the_stated_errors(capsys: pytest.CaptureFixture[str]):
    tables = [str(path) for path in [*SCALING, RESULTS]]
    assert main([*tables, "--rcp", str(TABLES / "mlperf_rcp_means.csv")]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    groups = found["groups"]
    assert found["cells"] >= 60
    limits = {
        "step, measured, up to 8x": (3, 8),
        "step, measured, beyond 8x": (8, 20),
        "step, extrapolated": (8, 20),
        "cost, between points": (4, 12),
        "seconds, measured": (10, 20),
    }
    for name, (median, p90) in limits.items():
        assert groups[name]["model"]["median"] <= median, name
        assert groups[name]["model"]["p90"] <= p90, name
    assert groups["step, measured"]["interval_95"]["held"] >= 90
    assert groups["step, measured"]["interval_95"]["half_width"] <= 15
    assert groups["step, bracketed"]["interval_95"]["held"] >= 95
    assert "model" not in groups["step, bracketed"]  # no point is given there
    for cut, scores in found["step_by_cut"].items():
        assert scores["model"]["median"] <= scores["perfect_scaling"]["median"] + 0.5, cut


def test_the_price_of_speed_is_that_of_the_published_rows():
    (price,) = [p for p in prices_of_speed(read_table(RESULTS)) if (p["series"], p["from"]) == ("resnet/H100", 64)]
    assert price == {
        "series": "resnet/H100", "system": "NVIDIA", "from": 64, "to": 2528, "speed": 10.71, "device_hours": 3.69,
    }  # fmt: skip


def test_one_cut_learns_only_up_to_it_and_bad_tables_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(SCALING[1]), "--learn-up-to", "64"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [*found["step_by_cut"]] == ["64"]
    assert found["cells"] == 2
    (tmp_path / "bad.csv").write_text("gpus,rate_per_s\neight,3\n")
    assert main([str(tmp_path / "bad.csv")]) == 2
    assert "line 2" in capsys.readouterr().err
