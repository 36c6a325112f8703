"""Every question that can be asked is an Experiment: by its annotations here, in full by pyright (make lint)."""

import ast
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

import pytest
import yaml

from harness.analyse.experiment import Experiment, Racing, Sequential
from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.commands.doctor import Doctor
from harness.commands.measurement import Measurement
from harness.commands.step_time import StepTime
from harness.config.experiments import question_class
from harness.config.places import conf_folder
from harness.plan.trial import Trial

if TYPE_CHECKING:  # pyright refuses a class that does not fit the protocol
    from experiments.ablation import Ablation, EqualBudget
    from experiments.base_lr import BaseLr
    from experiments.base_lr_sensitivity import BaseLrSensitivity
    from experiments.critical_batch import CriticalBatch
    from experiments.fixed_budget import FixedBudget
    from experiments.imported import Imported
    from experiments.lr_batch_momentum import LrBatchMomentum
    from experiments.lr_grid import LrGrid
    from experiments.momentum_search import MomentumSearch
    from experiments.noise_scale import NoiseScale
    from experiments.range_test import LrRangeTest, MomentumRangeTest
    from experiments.schedule_length import ScheduleLength
    from experiments.split_check import SplitCheck
    from experiments.tbs_sweep import TbsSweep
    from experiments.tuned import Tuned
    from experiments.weight_decay_search import WeightDecaySearch

    EXPERIMENTS: list[Callable[..., Experiment]] = [
        Ablation, EqualBudget, BaseLr, BaseLrSensitivity, CriticalBatch, FixedBudget, Imported, LrBatchMomentum, LrGrid,
        MomentumSearch, NoiseScale, LrRangeTest, MomentumRangeTest, ScheduleLength, SplitCheck, TbsSweep, Tuned,
        WeightDecaySearch,
    ]  # fmt: skip
    SEQUENTIAL: list[Callable[..., Sequential]] = [
        CriticalBatch, LrBatchMomentum, ScheduleLength, Tuned, WeightDecaySearch,
    ]  # fmt: skip
    MEASUREMENTS: list[Callable[..., Measurement]] = [Doctor, StepTime]
    RACING: list[Callable[..., Racing]] = [Tuned]

FILES = (conf_folder() / "experiment").glob("*.yaml")
NAMED = {str(yaml.safe_load(path.read_text())["question"]["_target_"]) for path in FILES}
# `harness track --from-wandb` asks the last one.
TARGETS = sorted({target for target in NAMED if target.startswith("experiments.")} | {"experiments.imported.Imported"})


def test_whatever_is_no_experiment_is_a_measurement_that_pyright_checks():
    classes = {question_class(target) for target in NAMED if not target.startswith("experiments.")}
    assert classes == {Doctor, StepTime}
    assert question_class("harness.doctor.Doctor") is Doctor  # in configurations written before it moved


def test_every_question_is_among_the_classes_that_pyright_checks():
    tree = ast.parse(Path(__file__).read_text())
    imported = {
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("experiments.")
        for alias in node.names
    }
    assert imported == set(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_a_question_takes_records_and_answers_with_trials_and_findings(target):
    made: Any = question_class(target)
    trials, conclude = get_type_hints(made.trials), get_type_hints(made.conclude)
    assert trials["records"] is conclude["records"] is Records
    assert get_origin(trials["return"]) in (list, Sequence)
    assert get_args(trials["return"]) == (Trial,)
    assert conclude["return"] is Findings
