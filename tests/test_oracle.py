"""End to end on the noisy quadratic, the harness must reproduce a closed form in which there is nothing to tune.

Every curve, crossing and table that a study of the command line leaves is compared with the exact recursion of the
expected loss, within chance; an error of one percent in what either side believes, and faults planted into the
trainer, must be seen. How the two are compared is in noisy_quadratic.py.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from noisy_quadratic import CONFIRM, Arm, Truth, arms_of, discrepancies, run_study, truth_of, window

from harness.config.compose import compose_config
from harness.plan.workload import Workload
from harness.record.study import StudyFolder
from harness.train import learner as learner_module
from harness.train.averaging import AveragedModel
from harness.train.learner import Learner
from harness.train.losses import LOSSES
from harness.train.stream import ExampleStream

TBS = (8, 16, 32, 64, 128, 256, 512)
RULES = ("none", "sqrt", "linear")
SEEDS = "seeds=[0,1,2,3,4,5,6,7]"
RUN_ON = "workload.target.confirm=6"  # past the crossing, so that the seed-mean is there on both sides of it

# The workload as it is shipped, in micro-batches of at most 128.
SCALING = ["question.total_batch_sizes=[8,64,512]", "cluster.per_device_batch_size=128", SEEDS, RUN_ON]
# Plain SGD under an annealed schedule, in float64.
PLAIN = [
    "question.total_batch_sizes=[64,512]",
    "lr_scaling.rules=[sqrt,linear]",
    "optimizer.momentum=0.0",
    "schedule=cosine",
    "workload.base_batch_size=64",
    "workload.base_lr=0.2",
    "workload.budget={examples: 24576}",
    "cluster.precision=float64",
    SEEDS,
    RUN_ON,
]
# One fast eigenvalue that is soon all noise, carried by many coordinates: an error in the noise has nowhere to hide.
FLOOR = [
    "question.total_batch_sizes=[8]",
    "lr_scaling.rules=[none]",
    "model.eigenvalues=[1.0]",
    "model.coordinates=2048",
    "dataset.variances=[0.2]",
    "schedule.warmup={examples: 64}",
    "workload.target.value=0.001",  # out of reach: the budget ends every trial
    "workload.budget={examples: 4096}",
    "workload.evaluate_every_examples=16",
    "workload.averaging.half_life_examples=64",
    SEEDS,
]
STUDIES = {
    "scaling": SCALING,
    "plain": PLAIN,
    "floor": [*FLOOR, "workload.base_lr=0.05"],
    "plain_floor": [*FLOOR, "workload.base_lr=0.5", "optimizer.momentum=0.0"],
}


class Studies:
    """Runs each study when it is first asked for."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.done: dict[str, tuple[list[Arm], StudyFolder]] = {}

    def __call__(self, name: str) -> tuple[list[Arm], StudyFolder]:
        if name not in self.done:
            config, folder = run_study(self.output / name, "cluster=inline", *STUDIES[name])
            self.done[name] = arms_of(config, folder), folder
        return self.done[name]


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> Studies:
    return Studies(tmp_path_factory.mktemp("oracle"))


# -- the workload, without a run ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped() -> dict[tuple[str, int], Truth]:
    """The closed form of the workload as it is shipped; rules meet at the base TBS."""
    config = compose_config(["+experiment=tbs_sweep", "workload=quadratic_quadratic"])
    return {(rule, tbs): truth_of(config, rule, tbs, 96 if rule != "none" else 48 * tbs // 8) for rule in RULES for tbs in TBS}


def test_the_target_is_at_least_three_times_every_arms_noise_floor(shipped):
    factors = {arm: truth.target.value / truth.floor for arm, truth in shipped.items()}
    assert min(factors.values()) >= 3, factors


def test_linear_scaling_is_perfect_up_to_a_point_and_the_other_rules_never_are(shipped):
    crossings = {arm: truth.crossings("averaged", 0, truth.target)[0] for arm, truth in shipped.items()}
    for rule, power in (("none", 1.0), ("sqrt", 0.5)):
        for tbs in TBS[1:]:
            ratio = crossings[rule, tbs] / crossings[rule, tbs // 2]
            assert 1.05 < ratio < 1.1 * 2**power
    linear = [crossings["linear", tbs] / crossings["linear", 8] for tbs in TBS]
    assert max(linear[:4]) < 1.05  # perfect scaling: the same examples up to TBS 64
    assert all(later > 1.3 * earlier for earlier, later in zip(linear[3:], linear[4:], strict=False))
    assert crossings["linear", 512] < crossings["sqrt", 512] < crossings["none", 512]


# -- the harness against the closed form ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", STUDIES)
def test_every_curve_and_crossing_is_the_closed_forms(studies, name):
    arms, _ = studies(name)
    assert discrepancies(arms) == []


def test_every_crossing_of_the_scaling_study_takes_part(studies):
    for arm in studies("scaling")[0]:
        last = arm.truth.examples[window(arm.truth, arm.decide_on) - CONFIRM]
        for weights in ("raw", "averaged"):
            _, high = arm.truth.crossings(weights, 1.0, replace(arm.truth.target, confirm=CONFIRM))
            assert high <= last, arm.rule


def test_the_table_of_results_is_the_closed_forms(studies):
    arms, folder = studies("scaling")
    truths = {(arm.rule, arm.total_batch_size): arm.truth for arm in arms}
    rows = list(csv.DictReader((folder.path / "results.csv").open()))
    assert len(rows) == 9
    for row in rows:
        rule, tbs, found = row["scaling_rule"], int(row["total_batch_size"]), float(row["examples_to_target"])
        truth = truths.get((rule, tbs)) or truths["none", 8]  # rules meet at the base TBS
        low, high = truth.crossings("averaged", 3.0, truth.target)
        assert float(row["peak_lr"]) == pytest.approx(truth.peak_lr)
        assert low <= found < high + truth.evaluate_every_examples, (rule, tbs)
        assert float(row["steps_to_target"]) == found / tbs
        assert float(row["epochs_to_target"]) == found / 16384
        assert (row["n"], row["reached"]) == ("8", "8")
