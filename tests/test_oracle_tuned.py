"""Tuned end to end on the noisy quadratic: best LR and epochs at each batch size are those of the closed form.

Plain SGD with eight times the shipped noise, so that the best LR lies inside the grid: below it progress is slow, above
it the noise floor comes near the target. A trial is a noisy run whose first confirmed touch comes before the crossing
of the expectation; the tolerance says by how much.
"""

import csv
import sys
from dataclasses import replace

import numpy as np
import pytest
from noisy_quadratic import Truth, truth_of
from quadratic_recursion import crossing_examples

from harness.commands.main import main
from harness.config.compose import compose_config

EVERY = 256
SIZES = (8, 128)
TUNED = [
    "+experiment=tuned",
    "workload=quadratic_quadratic",
    "optimizer.momentum=0.0",
    "dataset.variances=[1.6,0.4,0.1,0.025]",
    f"workload.evaluate_every_examples={EVERY}",
    "workload.averaging.half_life_examples=128",
    "workload.budget={epochs: 1}",
    "workload.base_lr=0.08",
    f"question.total_batch_sizes={list(SIZES)}",
    "question.lr_range=[0.08,1.28]",
    "lr_scaling=sqrt",
    "seeds=[0,1,2]",
    "cluster=inline",
    "tracking=disabled",
    "cluster.timing_min_steps=1",
    "cluster.timing_min_s=0",
]
SPREADS = 3.0  # how far below its expectation a run may lie that touches early
FACTOR = 2.0  # of the closed form's best LR: one step of the first grid


def crossing(truth: Truth, lr: float, spreads: float) -> float:
    """Examples at which a run so many spreads below the expected loss crosses the target; inf where it does not."""
    curve = replace(truth, peak_lr=lr).curves["averaged"]
    found = crossing_examples(list(truth.examples), list(curve.expected - spreads * curve.spread), truth.target)
    return np.inf if found is None else found


@pytest.mark.long
def test_best_lrs_and_epochs_are_those_of_the_closed_form(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["harness", *TUNED, f"output_dir={tmp_path}"])
    assert main() == 0, capsys.readouterr()
    folder = tmp_path / "tuned" / "default"
    with (folder / "tables" / "tuned_lr.csv").open() as file:
        best = {int(row["total_batch_size"]): row for row in csv.DictReader(file)}
    with (folder / "results.csv").open() as file:
        arms = {int(r["total_batch_size"]): r for r in csv.DictReader(file) if r["scaling_rule"] == "tuned"}
    config = compose_config(TUNED).raw
    for tbs in SIZES:
        truth = truth_of(config, "sqrt", tbs)
        lrs = [0.08 * 2 ** (i / 4) for i in range(17)]  # up to 1.28: from 2 on the largest eigenvalue diverges
        optimum = min(lrs, key=lambda lr: crossing(truth, lr, 0.0))
        found = float(best[tbs]["best_lr"])
        assert best[tbs]["at_edge"] == "false"
        assert optimum / FACTOR <= found <= optimum * FACTOR
        # The first evaluation at or beyond the crossing, and one more for the grid of evaluations.
        earliest, latest = crossing(truth, found, SPREADS), crossing(truth, found, 0.0) + 2 * EVERY
        examples = float(arms[tbs]["epochs_to_target"]) * config["dataset"]["epoch_examples"]
        assert earliest <= examples <= latest
    # The closed form's own growth of the best LR with TBS, within a factor each.
    growth = float(best[SIZES[1]]["best_lr"]) / float(best[SIZES[0]]["best_lr"])
    assert growth > 1
