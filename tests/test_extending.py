"""docs/extending.md is true: its files, unchanged, run by its commands from a folder outside the package."""

import csv
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


def command_with(words: str) -> str:
    """The page's first command with these words."""
    return next(command for command in COMMANDS if words in command)


def run(folder: Path, command: str, *more: str) -> "subprocess.CompletedProcess[str]":
    program, *arguments = shlex.split(command)
    assert program == "harness"
    words = [sys.executable, "-m", "harness", *arguments, f"output_dir={folder / 'outputs'}", *more]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120)


def test_the_page_shows_a_file_for_every_kind_of_thing():
    assert {name.split("/")[-2] for name, _ in FILES if "/" in name} == {
        *("dataset", "model", "workload", "lr_scaling", "experiment"),
    }
    assert len(COMMANDS) == 7


@pytest.mark.long
def test_the_doctor_passes_the_pages_own_classes(folder):
    finished = run(folder, command_with("doctor"))
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "FAIL" not in finished.stdout


@pytest.mark.long
def test_the_pages_model_data_and_optimizer_are_swept(folder):
    finished = run(
        folder,
        command_with("workload=rings_perceptron question"),
        "tracking=disabled",
        "cluster.timing_min_s=0.1",
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    records = list((folder / "outputs" / "tbs_sweep").rglob("record.json"))
    assert len(records) == 4  # TBS 16 once, TBS 64 under three rules


@pytest.mark.long
def test_the_pages_torch_data_set_is_swept(folder):
    finished = run(folder, command_with("dataset=noisy_rings"), "tracking=disabled", "cluster.timing_min_s=0.1")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert len(list((folder / "outputs" / "tbs_sweep" / "noisy_rings").rglob("record.json"))) == 4


@pytest.mark.long
def test_the_pages_folder_of_images_is_swept(folder):
    generator = np.random.default_rng(0)
    for part, count in (("train", 96), ("val", 16)):
        for label, name in enumerate(("dark", "bright")):
            (folder / "pictures" / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(100 * label, 100 * label + 100, (10, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "pictures" / part / name / f"{number}.png")
    words = command_with("dataset.folder=pictures")
    for dataset in ("image_folder", "lazy_image_folder"):
        more = ("tracking=disabled", "cluster.timing_min_s=0.1", f"study={dataset}", f"dataset.root={folder}")
        finished = run(folder, words.replace("dataset=image_folder", f"dataset={dataset}"), *more)
        assert finished.returncode == 0, finished.stdout + finished.stderr
    study = folder / "outputs" / "tbs_sweep"
    losses = [
        sorted(json.loads(path.read_text())["test"]["loss"] for path in study.rglob(f"{name}/**/record.json"))
        for name in ("image_folder", "lazy_image_folder")
    ]
    assert losses[0] == losses[1]
    assert losses[0]


@pytest.mark.parametrize(
    ("choice", "rules"),
    [
        pytest.param("logarithmic", ["none", "mine.logarithmic"], marks=pytest.mark.long),
        pytest.param("cube_root", ["none", "cube_root"], marks=pytest.mark.long),
        pytest.param("power", ["power(0.75)"], marks=pytest.mark.long),
    ],
)
def test_the_pages_question_is_answered_under_its_own_rules_and_under_a_power(folder, choice, rules):
    command = command_with("largest_batch").replace("lr_scaling=logarithmic", f"lr_scaling={choice}")
    finished = run(folder, command, f"study={choice}", "tracking=disabled", "cluster.timing_min_s=0.1")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    study = folder / "outputs" / "largest_batch" / choice
    assert len(list(study.rglob("record.json"))) == len(rules)
    with (study / "results.csv").open() as file:
        assert [row["scaling_rule"] for row in csv.DictReader(file)] == rules
    assert all(rule in finished.stdout for rule in rules)
    page = (study / "report.md").read_text()
    assert "## At the largest batch\n" in page
    assert f"{len(rules)} rules were tried." in page
