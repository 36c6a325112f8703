"""The inline launcher is the same code path without Ray: outcomes, failures, resume."""

import json

import pytest
from sweeps import SMALL, inline, sweep

SMALLER = "question.total_batch_sizes=[256]"

BROKEN = '''
import torch
from harness.models.bn_cnn import BnCnn

class Breaks(BnCnn):
    """Raises in its first forward pass at a micro-batch of 256."""
    def forward(self, images):
        if self.training and len(images) == 256:
            raise RuntimeError("this model cannot take 256 images")
        return super().forward(images)
'''


@pytest.mark.long
def test_the_same_command_resumes_and_a_longer_grid_adds_only_what_is_new(tmp_path):
    first = inline(tmp_path, *SMALL, "seeds=[0]", SMALLER)
    assert first.code == 0, first.err
    trials = len(first.records())
    before = {path: path.read_bytes() for path in (first.folder / "trials").rglob("*") if path.is_file()}
    again = inline(tmp_path, *SMALL, "seeds=[0]", SMALLER)
    assert "already finished" in again.out
    longer = inline(tmp_path, *SMALL, "seeds=[0,1]", SMALLER)
    assert longer.code == 0, longer.err
    assert len(longer.records()) == 2 * trials
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.long
def test_a_diverging_arm_is_an_outcome_and_not_an_error(tmp_path):
    arguments = ["question.total_batch_sizes=[256]", "seeds=[0]", "workload.base_lr=1e6"]
    found = inline(tmp_path, *SMALL, *arguments)
    assert found.code == 0, found.err
    assert {record["outcome"] for record in found.records().values()} == {"diverged"}
    assert "diverged" in found.out


@pytest.mark.long
def test_a_trial_that_always_fails_ends_failed_with_its_reason_and_the_others_complete(tmp_path):
    (tmp_path / "broken_model.py").write_text(BROKEN)
    found = sweep(
        tmp_path, *SMALL, "cluster=inline", "seeds=[0]", "model._target_=broken_model.Breaks", "lr_scaling=linear"
    )
    assert found.code == 1
    outcomes = {record["outcome"]: record for record in found.records().values()}
    assert set(outcomes) == {"reached", "failed"}
    assert "this model cannot take 256 images" in outcomes["failed"]["error"]
    assert "this model cannot take 256 images" in found.out
    log = next((found.folder / "trials").glob("*/cpu-w1-b256-*/log.txt"))
    assert "Traceback" in log.read_text()


@pytest.mark.long
def test_two_workers_give_the_table_of_one_in_float64(tmp_path):
    arguments = [
        *SMALL,
        "seeds=[0]",
        "lr_scaling=linear",
        "cluster.precision=float64",
        "question.total_batch_sizes=[128]",
    ]
    one = inline(tmp_path, *arguments, study="one")
    two = inline(tmp_path, *arguments, "cluster.workers_per_trial=2", study="two")
    assert one.code == two.code == 0, one.err + two.err
    tables = [json.loads((found.folder / "results.json").read_text())["arms"] for found in (one, two)]
    assert [arm["epochs_by_seed"] for arm in tables[0]] == [arm["epochs_by_seed"] for arm in tables[1]]
    rows = [next(iter(found.evaluations().values())) for found in (one, two)]
    losses = [[row["validation"]["averaged"]["loss"] for row in run] for run in rows]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
