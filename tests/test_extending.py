"""docs/extending.md is true: its files, unchanged, run by its commands from a folder outside the package."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()
FILES = re.findall(r"```\w+ file=(\S+)\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The page's files; pieces of one file follow each other."""
    root = tmp_path_factory.mktemp("mine")
    for name, text in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with (root / name).open("a") as file:
            file.write(text + "\n")
    return root


def run(folder: Path, command: str, *more: str) -> "subprocess.CompletedProcess[str]":
    program, *arguments = shlex.split(command)
    assert program == "harness"
    words = [sys.executable, "-m", "harness", *arguments, f"output_dir={folder / 'outputs'}", *more]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120)


def test_the_page_shows_a_file_for_every_kind_of_thing():
    assert {name.split("/")[-2] for name, _ in FILES if "/" in name} == {
        "dataset",
        "model",
        "optimizer",
        "workload",
        "lr_scaling",
        "experiment",
    }
    assert len(COMMANDS) == 3


@pytest.mark.long
def test_the_doctor_passes_the_pages_own_classes(folder):
    finished = run(folder, COMMANDS[0])
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "FAIL" not in finished.stdout


@pytest.mark.long
def test_the_pages_model_data_and_optimizer_are_swept(folder):
    finished = run(folder, COMMANDS[1], "tracking=disabled", "cluster.timing_min_s=0.1")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    records = list((folder / "outputs" / "tbs_sweep").rglob("record.json"))
    assert len(records) == 4  # TBS 16 once, TBS 64 under three rules


def test_the_pages_rule_and_question_are_planned_and_answered(folder):
    finished = run(folder, COMMANDS[2], "tracking=disabled", "cluster.timing_min_s=0.1")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "logarithmic" in finished.stdout
    assert len(list((folder / "outputs" / "largest_batch").rglob("record.json"))) == 2
    (page,) = (folder / "outputs" / "largest_batch").rglob("report.md")
    assert "## At the largest batch\n" in page.read_text()
    assert "2 rules were tried." in page.read_text()
