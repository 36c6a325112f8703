"""docs/recipes.md is true: its files, unchanged, run by its commands in an otherwise empty folder."""

import csv
import json
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text()
FILES = re.findall(r"```\w+ file=(\S+)\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = {re.findall(r"workload=(\w+)", text)[0]: text for text in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files."""
    root = tmp_path_factory.mktemp("recipes")
    for name, text in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def sweep(folder: Path, workload: str) -> list[dict[str, str]]:
    """The page's command, to its end; returns the rows of results.csv."""
    program, *arguments = shlex.split(COMMANDS[workload])
    assert program == "harness"
    quick = ("tracking=disabled", "cluster.timing_min_s=0.1")
    done = subprocess.run(
        [sys.executable, "-m", "harness", *arguments, *quick], cwd=folder, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with (folder / "outputs" / "tbs_sweep" / "default" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    (folder / "outputs").rename(folder / f"outputs_{workload}")
    assert {row["workload"] for row in rows} == {workload}
    return rows


def metrics_of(folder: Path, workload: str) -> set[str]:
    """The metrics in the journals."""
    rows = [
        json.loads(line)
        for path in (folder / f"outputs_{workload}").rglob("events.*.jsonl")
        for line in path.read_text().splitlines()
    ]
    return {name for row in rows if row["kind"] == "evaluation" for name in row["validation"]["averaged"]}


def reached(rows: list[dict[str, str]]) -> int:
    return sum(int(row["reached"]) for row in rows)


def test_each_recipe_has_a_workload_and_a_command():
    names = {Path(name).stem for name, _ in FILES if name.startswith("myconf/workload/")}
    assert names == set(COMMANDS) == {"reviews_distilbert", "lit_digits", "photos_timm", "digits_focal"}


@pytest.mark.long
def test_a_loss_and_a_metric_of_ones_own_are_swept(folder):
    rows = sweep(folder, "digits_focal")
    assert reached(rows) > 0
    assert metrics_of(folder, "digits_focal") == {"loss", "accuracy", "cohen_kappa"}


@pytest.mark.extras
def test_a_lightning_module_is_swept(folder):
    pytest.importorskip("lightning")
    assert reached(sweep(folder, "lit_digits")) > 0


@pytest.mark.extras
def test_a_hugging_face_model_is_swept_on_sentences_of_different_lengths(folder):
    pytest.importorskip("transformers")
    pytest.importorskip("datasets")
    words, chance = {"0": "bad dull poor slow", "1": "good fine rich quick"}, random.Random(0)
    with (folder / "reviews.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["text", "label"])
        for _ in range(512):
            label = chance.choice("01")
            table.writerow([" ".join(chance.choices(words[label].split(), k=chance.randint(1, 6))), label])
    assert reached(sweep(folder, "reviews_distilbert")) > 0
    assert metrics_of(folder, "reviews_distilbert") == {"loss", "accuracy", "f1_macro"}


@pytest.mark.extras
def test_a_timm_model_is_swept_on_a_folder_of_images_to_a_target_of_f1(folder):
    pytest.importorskip("timm")
    image = pytest.importorskip("PIL.Image")
    chance = random.Random(0)
    for split, count in (("train", 160), ("val", 32)):
        for number in range(count):
            name = "rare" if number % 4 == 0 else "common"
            shade = [chance.randint(0, 90) + (150 if name == "rare" and channel == 0 else 0) for channel in range(3)]
            path = folder / "photos" / split / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.new("RGB", (40, 36), tuple(shade)).save(path)
    rows = sweep(folder, "photos_timm")
    assert metrics_of(folder, "photos_timm") == {"loss", "accuracy", "f1_macro", "balanced_accuracy"}
    assert len(rows) == 6  # three rules at TBS 16 and 32
