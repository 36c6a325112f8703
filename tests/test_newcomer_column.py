"""A column of the table of arms is one function outside the package; a wrong one is rejected before any trial runs."""

import csv
import json
import re
import sys
from pathlib import Path

import pytest
from synthetic_study import SWEEP, findings_of, write_study
from test_newcomer import TINY, harness, private_imports, run, write
from wandb_document import document_text

from harness.commands.main import main
from harness.report.wandb_report import report_document

pytestmark = pytest.mark.long  # whole sweeps by the command; fast tests cover the parts

COLUMN = {
    "mine.py": '''
import numpy as np

from harness.analyse.arms import ArmFinding


def updates_per_epoch(arm: ArmFinding) -> float:
    """Optimizer updates in one pass over the training set."""
    return np.float64(arm.train_examples / arm.total_batch_size)


def size_class(arm: ArmFinding) -> str:
    return "small|odd" if arm.total_batch_size < 512 else "large"


def wrong(arm: ArmFinding) -> float:
    return arm.nonsense
''',
}
CHOSEN = ["+experiment=tbs_sweep", "workload.budget.epochs=1", "lr_scaling=linear", *TINY]
SIZES = ["question.total_batch_sizes=[256,512]"]
OWN = "arm_columns=[mine.updates_per_epoch,mine.size_class]"
NOTE = "updates per epoch: Optimizer updates in one pass over the training set."


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.replace("\\|", "¦").strip("|").split("|")]


def test_a_column_is_one_file_and_takes_no_private_name():
    assert len(COLUMN) == 1
    assert not private_imports(COLUMN)


def test_a_column_is_in_every_form_of_the_report_and_changes_nothing_else(tmp_path):
    write(tmp_path, COLUMN)
    printed = harness(tmp_path, *CHOSEN, *SIZES, OWN)
    study = tmp_path / "outputs" / "tbs_sweep" / "default"
    rows = table(study / "results.csv")
    train = json.loads((study / "study.json").read_text())["train_examples"]
    ratios = {tbs: train / tbs for tbs in (256, 512)}
    assert list(rows[0])[-3:] == ["topology", "updates_per_epoch", "size_class"]
    assert [float(row["updates_per_epoch"]) for row in rows] == list(ratios.values())
    assert [row["size_class"] for row in rows] == ["small|odd", "large"]

    lines = (study / "report.md").read_text().splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("| TBS"))
    shown = [f"{ratio:.3g}" for ratio in ratios.values()]
    assert cells(lines[head])[-2:] == ["updates per epoch", "size class"]
    assert [cells(lines[head + i])[-2:] for i in (2, 3)] == [[shown[0], "small¦odd"], [shown[1], "large"]]
    assert f"- {NOTE}" in lines

    printed_rows = [line.split() for line in printed.splitlines() if line.split()[:1] in (["256"], ["512"])]
    assert [row[-2:] for row in printed_rows] == [[shown[0], "small|odd"], [shown[1], "large"]]
    assert NOTE in printed
    keys = re.findall(r'<td data-key="(.*?)"', (study / "report.html").read_text())
    assert [keys[len(keys) // 2 - 2], keys[-2]] == [repr(ratio) for ratio in ratios.values()]
    arms = json.loads((study / "results.json").read_text())["arms"]
    assert arms[1]["extra"] == {"updates_per_epoch": ratios[512], "size_class": "large"}

    pages = {name: (study / name).read_bytes() for name in ("results.csv", "report.md", "report.html", "results.json")}
    harness(tmp_path, "report", str(study), "--trust")
    assert {name: (study / name).read_bytes() for name in pages} == pages

    harness(tmp_path, *CHOSEN, *SIZES)  # nothing is left to train; the same study without the columns
    plain = (study / "results.csv").read_text().splitlines()
    assert plain == [line.rsplit(",", 2)[0] for line in pages["results.csv"].decode().splitlines()]
    assert "own_columns" not in (study / "results.json").read_text()


def test_a_wrong_column_is_rejected_in_one_line_before_a_study_folder_is_made(tmp_path):
    write(tmp_path, COLUMN)
    done = run(tmp_path, *CHOSEN, *SIZES, "arm_columns=[mine.wrong]")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: arm_columns: mine.wrong fails on an arm: mine.py, line ")
    assert line.endswith(": AttributeError: 'ArmFinding' object has no attribute 'nonsense'")
    assert not (tmp_path / "outputs").exists()


WRONG = """
import math

not_callable = 3
def no_argument(): return 1
def two_arguments(arm, other): return 1
def a_list(arm): return [arm.n]
def of_no_metric(arm): return arm.test_metric * 100
def diverges(arm): return int(arm.epochs)
def test_metric(arm): return 1
def lr(arm): return 1
def good(arm, scale=2): return arm.variant.get("momentum")
"""
MISSED = "an arm that missed its target and has no times or metrics"


@pytest.mark.parametrize(
    ("columns", "refusal"),
    [
        ("good", "must be dotted paths like mine.examples_per_update, not 'good'"),
        ("no_such_module.good", "no_such_module.good cannot be imported: No module named 'no_such_module'"),
        ("wrong_columns.gone", "wrong_columns.gone cannot be imported: module 'wrong_columns' has no attribute 'gone'"),
        ("wrong_columns.not_callable", "is not a function of an arm"),
        ("wrong_columns.no_argument", "must take one argument, the arm: too many positional arguments"),
        ("wrong_columns.two_arguments", "must take one argument, the arm: missing a required argument: 'other'"),
        ("wrong_columns.good,wrong_columns.good", "must have different names, not good, good"),
        ("wrong_columns.a_list", "fails on an arm: it must return a number, a string or None, not list"),
        ("wrong_columns.of_no_metric", f"fails on {MISSED}: wrong_columns.py, line 8: TypeError"),
        ("wrong_columns.diverges", f"fails on {MISSED}: wrong_columns.py, line 9: OverflowError"),
        ("wrong_columns.test_metric", "has the name of a column that is already there: rename it"),
        ("wrong_columns.lr", "has the name of a column that is already there: rename it"),
    ],
)
def test_what_is_wrong_with_a_column_is_named(columns, refusal, tmp_path, monkeypatch, capsys):
    (tmp_path / "wrong_columns.py").write_text(WRONG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wrong_columns", raising=False)  # that of another case, in another folder
    assert main([*CHOSEN, *SIZES, f"arm_columns=[{columns}]"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: arm_columns")
    assert refusal in line
    assert not (tmp_path / "outputs").exists()


LATE = """
def reciprocal(arm):
    if arm.total_batch_size == 128 and arm.n == 3 and arm.topology != "cpu-w1" and arm.step_s is not None:
        raise KeyError("late")
    return arm.total_batch_size
"""


def test_a_column_that_fails_on_a_measured_arm_leaves_a_cell_empty_and_a_caveat(tmp_path, monkeypatch, capsys):
    (tmp_path / "late_columns.py").write_text(LATE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    study = write_study(tmp_path / "sweep", [*SWEEP, "arm_columns=[late_columns.reciprocal]"])
    assert main(["report", str(study.path), "--trust"]) == 0
    values = {(row["total_batch_size"], row["reciprocal"]) for row in table(study.path / "results.csv")}
    assert values == {("16", "16"), ("128", ""), ("512", "512")}
    cause = "none TBS 128: late_columns.py, line 4: KeyError: 'late'"
    caveat = f"column late_columns.reciprocal is empty for 2 of 6 arms: {cause}"
    wandb = document_text(report_document(findings_of(study), "accuracy"))
    for text in (capsys.readouterr().out, (study.path / "report.md").read_text(), wandb):
        assert caveat in text
        assert [line for line in text.splitlines() if "128" in line and line.rstrip(" |").endswith(" -")]
