"""A study that lists metrics: journalled, tracked, written to results.csv and read by `harness report --metric`."""

import csv
from pathlib import Path

import pytest

from harness.commands.main import main
from harness.plan.metrics import METRICS
from harness.record.files import read_lines
from harness.record.tracking.runs import metrics_of

SWEEP = [
    *("+experiment=tbs_sweep", "cluster=inline", "tracking=disabled", "question.total_batch_sizes=[64]", "seeds=[0]"),
    *("lr_scaling=none", "dataset.train=256", "dataset.validation=100", "workload.budget.epochs=2"),
    *("schedule.warmup.examples=64", "workload.evaluate_every_examples=128"),
    *("workload.target.metric=f1_macro", "workload.target.value=0.2"),
]
LISTED = "workload.metrics=[accuracy,f1_macro,balanced_accuracy]"
NAMES = ["loss", "accuracy", "f1_macro", "balanced_accuracy"]


@pytest.mark.long
def test_a_target_on_a_listed_metric(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    study = tmp_path / "tbs_sweep" / "s"
    run = [*SWEEP, f"output_dir={tmp_path}", "study=s"]
    assert main([*run, LISTED]) == 0
    (journal,) = study.glob("trials/*/*/events.*.jsonl")
    rows = [row for row in read_lines(journal) if row["kind"] == "evaluation"]
    assert all(list(scores) == NAMES for row in rows for scores in row["validation"].values())
    assert {f"validation/{name}" for name in NAMES} <= set(metrics_of(rows[-1], "averaged"))
    assert main(["report", str(study), "--metric", "f1_macro"]) == 0
    (arm,) = csv.DictReader((study / "results.csv").open())
    averaged = rows[-1]["validation"]["averaged"]
    assert float(arm["final_metric"]) == averaged["f1_macro"]
    for name in ("loss", "accuracy", "balanced_accuracy"):
        assert float(arm[f"final_{name}"]) == averaged[name]
        assert arm[f"test_{name}"]
    capsys.readouterr()
    assert main(["report", str(study), "--metric", "auroc", "--target", "0.9"]) == 2
    assert "is not measured in this study: choose one of loss, accuracy, f1_macro" in capsys.readouterr().err
    before = journal.read_bytes()
    assert main([*run, "workload.metrics=[auroc]"]) == 0  # other metrics: no trial runs again
    assert journal.read_bytes() == before
    assert len((study / "plan.jsonl").read_text().splitlines()) == 1


def test_docs_list_every_metric_with_its_direction_and_range():
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    for name, (mode, low, high) in METRICS.items():
        ends = f"{low:g} to {high:g}".replace("-inf", "-∞").replace("inf", "∞")
        assert f"| {name} | {mode} | {ends} |" in page, name
