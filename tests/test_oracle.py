"""End to end on the noisy quadratic, the harness must reproduce a closed form in which there is nothing to tune.

Every curve, crossing and table that a study of the command line leaves is compared with the exact recursion of the
expected loss, within chance; an error of one percent in what either side believes, and faults planted into the
trainer, must be seen. How the two are compared is in noisy_quadratic.py.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from noisy_quadratic import CONFIRM, Arm, Truth, arms_of, discrepancies, run_study, truth_of, window

from harness.config.compose import compose_config
from harness.objectives.model_losses import ModelOutput
from harness.record.study import StudyFolder
from harness.train import supply
from harness.train.averaging import AveragedModel
from harness.train.evaluation import Evaluator
from harness.train.learner import Learner
from harness.train.stream import ExampleStream

TBS = (8, 16, 32, 64, 128, 256, 512)
ALL_TBS = f"question.total_batch_sizes={list(TBS)}"
EIGHT_SEEDS = "seeds=[0,1,2,3,4,5,6,7]"  # the default is five
RUN_ON = "workload.target.confirm=6"  # past the crossing, so that the seed-mean is there on both sides of it

# The workload as it is shipped, in micro-batches of at most 128. Rule none needs six times the examples of the others
# or more at TBS 512: it is in the annealed study and, up to its crossing, in the long one.
SCALING = [
    "question.total_batch_sizes=[8,64,512]",
    "lr_scaling.rules=[sqrt,linear]",
    "cluster.per_device_batch_size=128",
    RUN_ON,
]
# Plain SGD under an annealed schedule, in float64.
PLAIN = [
    "question.total_batch_sizes=[64,512]",
    "optimizer.momentum=0.0",
    "schedule=cosine",
    "workload.base_batch_size=64",
    "workload.base_lr=0.2",
    "workload.budget={examples: 24576}",
    "cluster.precision=float64",
    RUN_ON,
]
# One fast eigenvalue that is soon all noise, carried by many coordinates: an error in the noise has nowhere to hide.
FLOOR = [
    "lr_scaling.rules=[none]",
    "model.eigenvalues=[1.0]",
    "model.coordinates=8192",
    "dataset.variances=[0.2]",
    "schedule.warmup={examples: 64}",
    "workload.target.value=0.001",  # out of reach: the budget ends every trial
    EIGHT_SEEDS,
]
SMALL_BATCH_FLOOR = [
    *FLOOR,
    "question.total_batch_sizes=[8]",
    "workload.base_lr=0.05",
    "workload.budget={examples: 4096}",
    "workload.evaluate_every_examples=32",
    "workload.averaging.half_life_examples=64",
]
ACCUMULATED_FLOOR = [
    *FLOOR,
    "question.total_batch_sizes=[32]",
    "cluster.per_device_batch_size=16",
    "optimizer.momentum=0.0",
    "workload.base_lr=0.5",
    "workload.budget={examples: 8192}",
    "workload.evaluate_every_examples=128",
    "workload.averaging.half_life_examples=256",
]
STUDIES = {
    "scaling": SCALING,
    "plain": PLAIN,
    "small_batch_floor": SMALL_BATCH_FLOOR,
    "accumulated_floor": ACCUMULATED_FLOOR,
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


def truths(*overrides: str) -> dict[tuple[str, int], Truth]:
    """The closed form of every arm of a study at the workload's own target."""
    config = compose_config(["+experiment=tbs_sweep", "workload=quadratic_quadratic", *overrides]).raw
    rules, sizes = config["lr_scaling"]["rules"], config["question"]["total_batch_sizes"]
    return {(rule, tbs): truth_of(config, rule, tbs) for rule in rules for tbs in sizes}


@pytest.mark.parametrize("overrides", [[ALL_TBS], SCALING, PLAIN], ids=["shipped", "scaling", "plain"])
def test_the_target_is_at_least_three_times_every_arms_noise_floor(overrides):
    factors = {arm: truth.target.value / truth.floor for arm, truth in truths(*overrides).items()}
    assert min(factors.values()) >= 3, factors


@pytest.mark.long
def test_linear_scaling_is_perfect_up_to_a_point_and_the_other_rules_never_are():
    crossings = {arm: truth.crossings("averaged", 0, truth.target)[0] for arm, truth in truths(ALL_TBS).items()}
    for rule, power in (("none", 1.0), ("sqrt", 0.5)):
        for tbs in TBS[1:]:
            ratio = crossings[rule, tbs] / crossings[rule, tbs // 2]
            assert 1.05 < ratio < 1.1 * 2**power
    linear = [crossings["linear", tbs] / crossings["linear", 8] for tbs in TBS]
    assert max(linear[:4]) < 1.05  # perfect scaling: the same examples up to TBS 64
    assert all(later > 1.3 * earlier for earlier, later in pairwise(linear[3:]))
    assert crossings["linear", 512] < crossings["sqrt", 512] < crossings["none", 512]


# -- the harness against the closed form ----------------------------------------------------------------------------


SLOWER = ("scaling", "accumulated_floor", "small_batch_floor")  # with the long tests


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.long) if n in SLOWER else n for n in STUDIES])
def test_every_curve_and_crossing_is_the_closed_forms(studies, name):
    arms, _ = studies(name)
    assert discrepancies(arms) == []


@pytest.mark.long
def test_every_crossing_of_the_scaling_study_takes_part(studies):
    for arm in studies("scaling")[0]:
        last = arm.truth.examples[window(arm.truth, arm.decide_on) - CONFIRM]
        for weights in ("raw", "averaged"):
            _, high = arm.truth.crossings(weights, 1.0, replace(arm.truth.target, confirm=CONFIRM))
            assert high <= last, arm.rule


@pytest.mark.long
def test_the_table_of_results_is_the_closed_forms(studies):
    arms, folder = studies("scaling")
    truths = {(arm.rule, arm.total_batch_size): arm.truth for arm in arms}
    rows = list(csv.DictReader((folder.path / "results.csv").read_text().splitlines()))
    assert len(rows) == 6
    for row in rows:
        rule, tbs, found = row["scaling_rule"], int(row["total_batch_size"]), float(row["examples_to_target"])
        truth = truths.get((rule, tbs)) or truths["sqrt", 8]  # rules meet at the base TBS
        low, high = truth.crossings("averaged", 3.0, truth.target)
        assert float(row["peak_lr"]) == pytest.approx(truth.peak_lr)
        assert low <= found < high + truth.evaluate_every_examples, (rule, tbs)
        assert float(row["steps_to_target"]) == found / tbs
        assert float(row["epochs_to_target"]) == found / 16384
        assert (row["n"], row["reached"]) == ("5", "5")


# -- that it would be seen ------------------------------------------------------------------------------------------


def scaled(name: str, factor: float) -> Callable[[Truth], Truth]:
    """One of the closed form's numbers, off by a factor."""

    def planted(truth: Truth) -> Truth:
        value: Any = getattr(truth, name)
        wrong = tuple(factor * item for item in value) if isinstance(value, tuple) else factor * value
        return replace(truth, **{name: wrong})

    return planted


FLOORS = ("small_batch_floor", "accumulated_floor")
PERCENT: list[tuple[str, Sequence[str]]] = [  # what is wrong by one percent, and the studies that must each see it
    ("peak_lr", list(STUDIES)),
    ("momentum", ["scaling", "small_batch_floor"]),
    ("noise_batch_size", FLOORS),
    ("variances", FLOORS),
    ("half_life_examples", ["scaling", "plain"]),
    ("eigenvalues", list(STUDIES)),
    ("start", list(STUDIES)),
]


@pytest.mark.long
@pytest.mark.parametrize("factor", [0.99, 1.01])
@pytest.mark.parametrize(("quantity", "seen_by"), PERCENT)
def test_an_error_of_one_percent_is_seen(studies, quantity, seen_by, factor):
    for name in seen_by:
        assert discrepancies(studies(name)[0], scaled(quantity, factor)), name


@pytest.mark.long
def test_a_schedule_that_is_one_update_off_is_seen(studies):
    def longer_warm_up(truth: Truth) -> Truth:
        return replace(truth, warmup_updates=truth.warmup_updates + 1)

    def earlier_end(truth: Truth) -> Truth:
        assert truth.cosine_updates is not None
        return replace(truth, cosine_updates=truth.cosine_updates - 1)

    for name in STUDIES:
        assert discrepancies(studies(name)[0], longer_warm_up), name
    assert discrepancies(studies("plain")[0], earlier_end)


def next_lr(monkeypatch):
    right = Learner._position
    monkeypatch.setattr(Learner, "_position", lambda self, step: right(self, step + 1))


def mean_over_one_example_fewer(monkeypatch):
    monkeypatch.setattr(ModelOutput, "measure", lambda self, outputs, targets: (outputs.sum() * 64 / 63, len(outputs)))


def every_micro_batch_the_same(monkeypatch):
    right = supply.cut
    monkeypatch.setattr(supply, "cut", lambda *arguments: right(*arguments)[:, :1].expand(-1, 2, -1))


def an_epoch_of_noise_again_and_again(monkeypatch):
    right = ExampleStream.positions

    def positions(self: ExampleStream, start: int, stop: int) -> torch.Tensor:
        return right(self, 0, 1024)[torch.arange(start, stop) % 1024]

    monkeypatch.setattr(ExampleStream, "positions", positions)


def the_same_noise_for_every_seed(monkeypatch):
    monkeypatch.setattr(ExampleStream, "positions", lambda self, start, stop: torch.arange(start, stop))


def no_bias_correction(monkeypatch):
    monkeypatch.setattr(AveragedModel, "next_weight", lambda self: 1 - self.decay)


def raw_weights_for_averaged(monkeypatch):
    right = Evaluator.evaluate
    monkeypatch.setattr(Evaluator, "evaluate", lambda self, examples, averaged: right(self, examples, averaged=False))


def velocity_lost_at_evaluations(monkeypatch):
    right = Evaluator.evaluate

    def evaluate(self: Evaluator, *arguments: Any, **named: Any) -> dict[str, float]:
        self.learner.optimizer.state.clear()
        return right(self, *arguments, **named)

    monkeypatch.setattr(Evaluator, "evaluate", evaluate)


FAULTS = [
    next_lr,
    mean_over_one_example_fewer,
    every_micro_batch_the_same,
    an_epoch_of_noise_again_and_again,
    the_same_noise_for_every_seed,
    no_bias_correction,
    raw_weights_for_averaged,
    velocity_lost_at_evaluations,
]
FAULTY = ["lr_scaling.rules=[linear]", "question.total_batch_sizes=[64]", "cluster.per_device_batch_size=32"]


# One of each kind is tried at once, the rest with the long tests.
AT_ONCE = (None, mean_over_one_example_fewer, the_same_noise_for_every_seed)


@pytest.mark.parametrize(
    "fault", [pytest.param(f, marks=() if f in AT_ONCE else pytest.mark.long) for f in (None, *FAULTS)]
)
def test_a_fault_in_the_trainer_is_seen(tmp_path, monkeypatch, fault):
    if fault:
        fault(monkeypatch)
    arms = arms_of(*run_study(tmp_path, "cluster=inline", *FAULTY, EIGHT_SEEDS))
    assert bool(discrepancies(arms)) == bool(fault)


# -- the whole of it, on two workers --------------------------------------------------------------------------------

TWO_WORKERS = ["cluster.workers_per_trial=2", "cluster.per_device_batch_size=64"]


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "overrides",
    [
        # Through Ray; the other two on gangs in child processes. From one micro-batch a rank to four.
        ["question.total_batch_sizes=[64,512]", "lr_scaling.rules=[sqrt,linear]", RUN_ON, "cluster.cpus=2"],
        [*PLAIN, "cluster=inline"],
        [*ACCUMULATED_FLOOR, "cluster=inline"],
    ],
    ids=["scaling", "plain", "floor"],
)
def test_two_workers_a_trial_are_the_closed_forms_too(tmp_path, overrides):
    arms = arms_of(*run_study(tmp_path, *overrides, *TWO_WORKERS))
    assert {trial.record["topology"][:6] for arm in arms for trial in arm.trials} == {"cpu-w2"}
    assert discrepancies(arms) == []
