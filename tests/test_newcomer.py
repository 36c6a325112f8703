"""What a newcomer adds takes the files that docs/extending.md says, written outside the package, and public names only.

Each test writes those files into an empty folder and uses them by the command, as a person would.
"""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long  # whole sweeps by the command; fast tests cover the parts

HARNESS = str(Path(sys.executable).with_name("harness"))
TINY = ["cluster=inline", "tracking=disabled", "seeds=[0]", "cluster.timing_min_steps=2", "cluster.timing_min_s=0"]

MODEL = {
    "networks.py": """
import torch
from torch import Tensor, nn


class TwoLayers(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(64, width)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.relu(self.hidden(images.flatten(1))))
""",
    "myconf/model/two_layers.yaml": """
_target_: networks.TwoLayers
width: 16
""",
}
QUESTION = {
    "questions.py": '''
from collections.abc import Sequence

from harness.analyse.arms import arm_findings
from harness.analyse.conclude import findings
from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.analyse.sections import Plot, Section, Series, Table
from harness.plan.design import Design
from harness.plan.trial import Trial


class FirstLoss:
    """Which batch size has the lowest training loss at the first evaluation?"""

    def __init__(self, design: Design, total_batch_sizes: Sequence[int]) -> None:
        self.design = design
        self.arms = [design.workload.arm("linear", size) for size in total_batch_sizes]

    def trials(self, records: Records) -> list[Trial]:
        return [Trial(arm, seed) for arm in self.arms for seed in self.design.seeds]

    def conclude(self, records: Records) -> Findings:
        rows = [
            (arm.total_batch_size, result.trial.seed, result.evaluations[0]["train_loss"])
            for arm in self.arms
            for result in records.of_arm(arm, self.design.seeds)
        ]
        sizes, losses = [row[0] for row in rows], [row[2] for row in rows]
        lowest = f"TBS {min(rows, key=lambda row: row[2])[0]} has the lowest first loss."
        plot = Plot(
            name="first_losses",
            title="Training loss at the first evaluation",
            alt=lowest,
            x_label="total batch size (examples per update)",
            y_label="training loss",
            series=[Series("trials", sizes, losses)],
            x_log=2,
        )
        section = Section(
            title="The first evaluation",
            sentences=[lowest],
            plots=[plot],
            tables=[Table("first_losses", ["total_batch_size", "seed", "train_loss"], rows)],
        )
        measured = arm_findings(self.design, self.arms, records)
        question = "Which batch size has the lowest first loss?"
        return findings(
            question, self.design, self.arms, records, measured, verdict=["Read off once."], sections=[section]
        )
''',
    "myconf/experiment/first_loss.yaml": """# @package _global_
question:
  _target_: questions.FirstLoss
  total_batch_sizes: [256, 512]
workload: {budget: {epochs: 1}}
""",
}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """The installed command in `folder`, without this checkout on the path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [HARNESS, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=200
    )


def harness(folder: Path, *arguments: str) -> str:
    """What the command prints; fails unless it succeeds without a word on stderr."""
    done = run(folder, *arguments)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def private_imports(files: dict[str, str]) -> list[str]:
    """Names with a leading underscore that the newcomer's code takes from the harness."""
    found = [re.findall(r"^from (harness[\w.]*) import (.*)$", text, re.MULTILINE) for text in files.values()]
    names = [
        name for imports in found for module, taken in imports for name in [*module.split("."), *taken.split(", ")]
    ]
    return [name for name in names if name.startswith("_")]


@pytest.mark.parametrize("files", [MODEL, QUESTION])
def test_an_addition_is_two_files_and_takes_no_private_name(files):
    assert len(files) == 2
    assert not private_imports(files)


def test_a_model_is_swept_and_one_of_its_trials_run_alone(tmp_path):
    write(tmp_path, MODEL)
    chosen = ["+experiment=tbs_sweep", "workload=digits_bn_cnn", "model=two_layers", "workload.budget.epochs=1"]
    sizes = "question.total_batch_sizes=[16,512]"
    harness(tmp_path, "--config-dir", "myconf", *chosen, sizes, "lr_scaling=linear", *TINY)
    (study,) = (tmp_path / "outputs" / "tbs_sweep").iterdir()
    records = list(study.rglob("record.json"))
    assert len(records) == 2
    description = json.loads((study / "study.json").read_text())
    assert description["config"]["model"] == {"_target_": "networks.TwoLayers", "width": 16}
    trial = records[0].with_name("trial.json")
    assert "epochs" in harness(tmp_path, "train", str(trial), "--folder", str(tmp_path / "alone"))
    assert json.loads((tmp_path / "alone" / "record.json").read_text())["examples"] == 1024


def test_a_question_brings_its_own_section_to_every_form_of_its_report(tmp_path):
    write(tmp_path, QUESTION)
    assert "first_loss" in harness(tmp_path, "--help", "--config-dir", "myconf")
    printed = [harness(tmp_path, "--config-dir", "myconf", "+experiment=first_loss", *TINY)]
    study = tmp_path / "outputs" / "first_loss" / "default"
    assert len(list(study.rglob("record.json"))) == 2
    pages = ["report.html", "report.md", "tables/first_losses.csv", "figures/first_losses.svg"]
    first = {name: (study / name).read_text() for name in pages}
    for name in pages:
        (study / name).unlink()
    printed.append(harness(tmp_path, "report", str(study), "--trust"))
    assert {name: (study / name).read_text() for name in pages} == first
    rows = list(csv.DictReader(first["tables/first_losses.csv"].splitlines()))
    assert [row["total_batch_size"] for row in rows] == ["256", "512"]
    lowest = min(rows, key=lambda row: float(row["train_loss"]))["total_batch_size"]
    for text in (*printed, first["report.html"], first["report.md"]):
        assert "The first evaluation" in text
        assert f"TBS {lowest} has the lowest first loss." in text
