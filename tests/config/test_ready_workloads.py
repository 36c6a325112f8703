"""Ready workloads plan without their data, train on small data in the real format, and are listed in one place."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from ready_workloads import WORKLOADS

from harness.commands.checks import load_question
from harness.config.compose import compose_config
from harness.launch.tasks import task_of
from harness.plan.duration import Duration
from harness.plan.execution import Speed
from harness.plan.trial import PlannedTrial, Topology, Trial
from harness.train.rehearsal import rehearse
from harness.train.trainer import Execution
from harness.train.worker import Worker

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "workloads.md").read_text()
FILES = sorted((ROOT / "conf" / "workload").glob("*.yaml"))
USUAL = [16, 32, 64, 128, 256, 512]  # total batch sizes of a workload that names none


def values(path: Path) -> dict[str, Any]:
    """What a file, and those that it builds on, say of the workload."""
    content: Any = OmegaConf.to_container(OmegaConf.load(path))
    bases = [base for base in content.get("defaults", []) if isinstance(base, str)]
    merged: dict[str, Any] = {}
    for part in (*(values(path.with_name(f"{base}.yaml")) for base in bases), content["workload"]):
        for key, value in part.items():
            merged[key] = {**merged.get(key, {}), **value} if isinstance(value, dict) else value
    return merged


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_page_lists_every_workload_as_its_file_has_it(path):
    cells = r"(.+? epochs) \| (\d+) \.\.\. (\d+) \| (.+?) \| "
    (row,) = re.findall(rf"^\| `{path.stem}`(?: \(default\))? \| {cells}", PAGE, re.MULTILINE)
    given = values(path)
    target, budget = given["target"], Duration.parse(given["budget"])
    sizes = given.get("total_batch_sizes", USUAL)
    sign = ">=" if target["mode"] == "max" else "<="
    assert all(given["evaluate_every_examples"] % size == 0 for size in sizes)
    assert row == (
        f"{target['metric']} {sign} {target['value']:g} | {budget.amount:g} epochs",
        str(sizes[0]),
        str(sizes[-1]),
        f"{given['base_lr']:g} at {given['base_batch_size']}",
    )


def test_every_workload_that_is_ready_to_download_is_tried_here():
    ours = {"digits_bn_cnn", "stdlib_text_gpt", "stdlib_text_gpt_short", "quadratic_quadratic", "cifar10_resnet20"}
    assert {path.stem for path in FILES} - ours == set(WORKLOADS)


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_states_what_differs_from_its_reference_and_the_command_that_runs_it(name):
    head = (ROOT / "conf" / "workload" / f"{name}.yaml").read_text().partition("\ndefaults:")[0]
    assert f"# harness +experiment=tbs_sweep workload={name}" in head
    assert "# Reference: " in head
    assert "# Differs from it:" in head or "# Reference: none" in head
    assert f"| `{name}` |" in PAGE.partition("## Published runs")[2] or "# Reference: none" in head


@pytest.mark.long
@pytest.mark.parametrize("name", WORKLOADS)
def test_a_sweep_is_planned_without_the_data_and_says_where_to_put_them(harness, name, tmp_path):
    root = [] if name.startswith("text_file") else [f"dataset.root={tmp_path / 'none'}"]  # not the user's own data
    said = harness("+experiment=tbs_sweep", f"workload={name}", "dry_run=true", "tracking=disabled", *root)
    assert (said.code, said.err) == (0, "")
    (line,) = (line for line in said.out.splitlines() if line.startswith("data "))
    assert re.search(r"dataset\.(folder=FOLDER|archive=PATH)", line)
    assert not list(said.folder.iterdir())


@pytest.mark.long
@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_learns_a_small_stand_in_in_the_real_format(name, tmp_path):
    write, small = WORKLOADS[name]
    sweep = ["+experiment=tbs_sweep", "question.total_batch_sizes=[16,32]", "seeds=[0]"]
    config = compose_config([*sweep, f"workload={name}", *write(tmp_path), *small])
    splits, design, _ = load_question(config)
    assert splits.is_loaded
    arm = design.workload.arm("sqrt", 32)
    planned = PlannedTrial(Trial(arm, 0), Topology(design.workload.batch_plan(32)))
    rehearse([planned], splits, Speed())
    worker, rows = Worker(0, 1, "cpu", 1), []
    worker.start(task_of(planned, tmp_path, Execution(hang_s=0.0)))
    while not rows or rows[-1]["kind"] != "end":
        rows += worker.advance(1e9)
    losses = [row["train_loss"] for row in rows if row["kind"] == "evaluation"]
    assert len(losses) == arm.settings.budget_examples // 64
    assert math.isfinite(losses[-1])
    assert losses[-1] < losses[0]
