"""The noise scale as an experiment: one command measures it over training, says it, and refuses what it cannot do."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.commands.main import main

QUADRATIC = [
    "+experiment=noise_scale",
    "workload=quadratic_quadratic",
    "question.total_batch_sizes=[64]",
    "question.measurements=2",
    "question.frozen_units=256",
    "workload.budget={examples: 4096}",
    "workload.base_lr=1e-12",  # the weights stay where they started: every estimate is of one known truth
    "seeds=[0,1]",
    "tracking=disabled",
    "cluster.timing_min_steps=1",
    "cluster.timing_min_s=0",
]
EIGENVALUES, VARIANCES = (1.0, 0.25, 0.0625, 0.015625), (0.2, 0.05, 0.0125, 0.003125)
TRUTH = sum(VARIANCES) / sum(h * h for h in EIGENVALUES)


def call(folder: Path, *arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["harness", *arguments, f"output_dir={folder}"])
        return main()


def table(study: Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((study / "tables" / f"{name}.csv").read_text().splitlines()))


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("noise")
    assert call(folder, *QUADRATIC, "cluster=inline") == 0
    return folder / "noise_scale" / "default"


def test_both_measurements_give_the_closed_form_at_every_place(study):
    rows = table(study, "noise_scale")
    assert [(row["arm"], row["epochs"], row["seeds"]) for row in rows] == [
        ("linear TBS 64", "0.125", "2"),
        ("linear TBS 64", "0.25", "2"),
    ]
    for row in rows:
        for kind in ("training", "frozen"):
            assert float(row[kind]) == pytest.approx(TRUTH, rel=0.05)
            assert float(row[f"{kind}_low"]) < float(row[kind]) < float(row[f"{kind}_high"])


def test_the_variance_of_batch_gradients_is_drawn_with_its_line(study):
    for row in table(study, "gradient_variance"):
        if int(row["gradients_a_seed"]) >= 16:
            assert float(row["variance"]) == pytest.approx(float(row["one_over_m"]), rel=0.1)
    sizes = {int(row["batch_size"]) for row in table(study, "gradient_variance")}
    assert sizes == {1, 2, 4, 8, 16, 32, 64}
    names = {path.stem for path in (study / "figures").glob("*.svg")}
    assert {"noise_scale_training", "noise_scale_frozen", "gradient_variance"} <= names


def test_page_and_results_say_what_was_found(study):
    page = (study / "report.html").read_text()
    assert "Gradient noise scale" in page
    assert "linear TBS 64, in training" in page
    found = json.loads((study / "results.json").read_text())
    assert [section["title"] for section in found["sections"]] == [
        "Gradient noise scale",
        "Gradient variance against batch size",
    ]
    assert "order of magnitude" in found["verdict"][-1]


def test_the_plan_says_what_measuring_costs(tmp_path, capsys):
    assert call(tmp_path, *QUADRATIC, "cluster=inline", "dry_run=true") == 0
    said = capsys.readouterr().out
    assert "norms of every gradient; 1,024 examples more at frozen weights" in said  # 2 trials x 2 places x 256
    assert not list(tmp_path.iterdir())


REFUSED = {
    "question.total_batch_sizes=[16]": "TBS 16 is one micro-batch: use cluster.per_device_batch_size=8",
    "question.total_batch_sizes=[]": "question.total_batch_sizes is empty",
    "question.measurements=9": "between 1 and the budget's 8 evaluations, not 9",
    "question.frozen_units=40": "must be a multiple of 16",
    "question.sweep=nowhere": "is no finished study of a sweep",
    "cluster.precision=fp16": "fp16",
}


@pytest.mark.parametrize("argument", REFUSED)
def test_what_cannot_be_measured_is_one_line_and_exit_code_2(tmp_path, capsys, argument):
    assert call(tmp_path, *QUADRATIC, "cluster=inline", argument) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert REFUSED[argument] in said


def test_a_sweeps_critical_batch_size_is_put_beside(study, tmp_path):
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    interval = {"low": 40.0, "high": 90.0, "coverage": 0.95, "label": "profile"}
    critical = [
        {"definition": "E_min / S_min", "value": 60.0, "interval": interval, "status": "identified"},
        {"definition": "isotonic", "value": None, "interval": {**interval, "high": None}, "status": "at least"},
    ]
    (sweep / "results.json").write_text(json.dumps({"fits": [{"label": "linear", "critical": critical}]}))
    arguments = [*QUADRATIC, "cluster=inline", f"question.sweep={sweep}"]
    assert call(tmp_path, *arguments) == 0
    found = json.loads((tmp_path / "noise_scale" / "default" / "results.json").read_text())
    sentences = found["sections"][-1]["sentences"]
    assert sentences[0].startswith("linear, E_min / S_min: 60 (40 to 90); the median noise scale of this run is 0.2")
    assert sentences[1].startswith("linear, isotonic: at least 40; ")


@pytest.mark.long
def test_two_workers_a_trial_through_ray_measure_the_same(tmp_path):
    ray = ["cluster.workers_per_trial=2", "cluster.cpus=2", "cluster.per_device_batch_size=16"]
    # Ray joins a process to one cluster for good: in a process of its own.
    command = [sys.executable, "-m", "harness", *QUADRATIC, *ray, f"output_dir={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    for row in table(tmp_path / "noise_scale" / "default", "noise_scale"):
        assert float(row["training"]) == pytest.approx(TRUTH, rel=0.05)
        assert float(row["frozen"]) == pytest.approx(TRUTH, rel=0.05)
