"""Branches from a trunk through the command line: round after round, to a critical batch size and its pages."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from harness.commands.main import main

BRANCHES = [
    "+experiment=critical_batch",
    "workload=quadratic_quadratic",
    "question.multipliers=[1,4,16]",
    "question.at_examples=[512,1024]",
    "question.window_examples=1024",
    "seeds=[0,1]",
    "tracking=disabled",
    "cluster.timing_min_steps=1",
    "cluster.timing_min_s=0",
]


def call(folder: Path, *arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["harness", *arguments, f"output_dir={folder}"])
        return main()


def branches(study: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((study / "tables" / "branches.csv").read_text().splitlines()))


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("branches")
    assert call(folder, *BRANCHES, "cluster=inline") == 0
    return folder / "critical_batch" / "default"


@pytest.mark.long
def test_every_place_seed_and_multiple_has_its_branch(study):
    rows = branches(study)
    assert {(row["epochs"], row["seed"], row["total_batch_size"]) for row in rows} == {
        (epochs, seed, tbs) for epochs in ("0.03125", "0.0625") for seed in "01" for tbs in ("8", "32", "128")
    }
    for row in rows:
        assert float(row["smoothed_loss"]) < 170  # the loss at step 0: the branch did not begin afresh
        assert row["critical_batch_size"] in ("8", "32", "128")


def test_page_and_figures_carry_the_conclusion(study):
    assert "critical batch size" in (study / "report.html").read_text()
    names = {path.stem for path in (study / "figures").glob("*.svg")}
    assert {"critical_batch_by_branches", "branch_losses"} <= names


def test_the_plan_names_the_trunks_and_what_follows(tmp_path, capsys):
    assert call(tmp_path, *BRANCHES, "cluster=inline", "dry_run=true") == 0
    said = capsys.readouterr().out
    assert "2 distinct of 2 planned" in said
    assert "12 branches of 1,024 examples each, in all 12,288" in said
    assert not list(tmp_path.iterdir())


REFUSED = {
    "question.multipliers=[2,4]": "question.multipliers must rise from 1",
    "question.at_examples=[500]": "must be positive multiples of evaluate_every_examples=512",
    "question.at_examples=[1024,512]": "question.at_examples must rise",
    "question.window_examples=0": "must be positive multiples",
    "question.tolerance=-1": "question.tolerance is a loss >= 0",
    "schedule=cosine": "use schedule=constant",
    "question.multipliers=[1,3]": "not a multiple of total batch size 24",
}


@pytest.mark.parametrize("argument", REFUSED)
def test_what_cannot_branch_is_one_line_and_exit_code_2(tmp_path, capsys, argument):
    assert call(tmp_path, *BRANCHES, "cluster=inline", argument) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert REFUSED[argument] in said


@pytest.mark.long
def test_branches_run_through_ray_on_two_workers(tmp_path, study):
    ray = ["cluster.workers_per_trial=2", "cluster.cpus=2"]
    command = [sys.executable, "-m", "harness", *BRANCHES, *ray, f"output_dir={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {(r["epochs"], r["seed"], r["total_batch_size"]): float(r["smoothed_loss"]) for r in branches(study)}
    for row in branches(tmp_path / "critical_batch" / "default"):
        key = row["epochs"], row["seed"], row["total_batch_size"]
        assert float(row["smoothed_loss"]) == pytest.approx(found[key], rel=1e-3)
