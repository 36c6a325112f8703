"""A person's own classes in the current folder run to the end through every launcher, by name alone."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.config.experiments import question_class

# Named like one of the harness's own packages on purpose: this file must be found, in Ray's workers too.
MODEL = """
from torch import nn

class Own(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

    def forward(self, images):
        return self.net(images)
"""
EXPERIMENT = '''
from collections.abc import Sequence

from harness.plan.design import Design
from harness.plan.trial import Trial
from harness.questions.rule_comparison import rule_findings

class Two:
    """Two batch sizes, one rule."""

    def __init__(self, design: Design, sizes: Sequence[int], rule: str = "linear") -> None:
        self.design = design
        self.arms = [design.workload.arm(rule, size) for size in sizes]

    def trials(self, records):
        return [Trial(arm, seed) for arm in self.arms for seed in self.design.seeds]

    def conclude(self, records):
        return rule_findings("Two sizes?", self.design, self.arms, records, None)
'''
WORKLOAD = """# @package _global_
defaults:
  - override /dataset: digits
  - override /model: own
workload:
  name: digits_own
  loss: cross_entropy
  target: {metric: accuracy, value: 0.5, mode: max}
  budget: {epochs: 2}
  base_batch_size: 256
  base_lr: 0.1
  evaluate_every_examples: 512
"""
QUESTION = """# @package _global_
# python -m harness --config-dir conf +experiment=two
defaults:
  - override /workload: digits_own
question:
  _target_: my_question.Two
  sizes: [256, 512]
seeds: [0]
"""
QUIET = ["tracking=disabled", "cluster.timing_min_s=0"]


@pytest.fixture
def project(tmp_path) -> Path:
    """A folder with a model, a question and the configuration for both."""
    files = {
        "models.py": MODEL,
        "my_question.py": EXPERIMENT,
        "conf/model/own.yaml": "_target_: models.Own\nwidth: 16\n",
        "conf/workload/digits_own.yaml": WORKLOAD,
        "conf/experiment/two.yaml": QUESTION,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def run(project: Path, *arguments: str, script: bool = False) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("harness"))] if script else [sys.executable, "-m", "harness"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [*command, "--config-dir", "conf", "+experiment=two", *QUIET, *arguments],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )


def outcomes(project: Path) -> list[str]:
    records = (project / "outputs").rglob("record.json")
    return [json.loads(path.read_text())["outcome"] for path in records]


@pytest.mark.parametrize("script", [False, pytest.param(True, marks=pytest.mark.long)])
def test_own_model_workload_and_question_run_inline(project, script):
    done = run(project, "cluster=inline", script=script)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert len(outcomes(project)) == 2
    assert set(outcomes(project)) <= {"reached", "censored"}
    assert (project / "outputs/two/default/results.csv").read_text().count("digits_own") == 2


@pytest.mark.long
def test_own_model_workload_and_question_run_through_ray_on_one_worker_and_on_two(project):
    sizes = ["cluster.workers_per_trial=null", "cluster.per_device_batch_size=256"]  # W = 1 and 2
    done = run(project, *sizes, "cluster.cpus=2", script=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    topologies = {path.parent.name[:6] for path in (project / "outputs").rglob("record.json")}
    assert topologies == {"cpu-w1", "cpu-w2"}
    assert len(outcomes(project)) == 2
    assert set(outcomes(project)) <= {"reached", "censored"}


MISFITS = {
    "+model.depth=3": "models.Own has no argument 'depth': did you mean 'width'?",
    "~model.width": "models.Own: missing a required argument: 'width'",
    "model.width=wide": "model models.Own cannot be trained with torch.optim.SGD on harness.datasets.digits.Digits: ",
    "model._target_=models.Owm": "_target_ models.Owm: models has no 'Owm': did you mean 'Own'?",
    "+question.size=[64]": "unknown key 'question.size': did you mean 'question.sizes'?",
    "question.sizes=[a]": "question.sizes must be a list of integers, not ['a']",
    "~question.sizes": "question.sizes must be given",
    "+question.rule=3": "question.rule must be a string, not 3",
    "question._target_=my_question.Three": "my_question has no 'Three'",
}


@pytest.mark.parametrize("argument", MISFITS)
def test_arguments_that_do_not_fit_an_own_class_are_refused(project, harness, monkeypatch, argument):
    for name in ("models", "my_question"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    refusal = harness("--config-dir", "conf", "+experiment=two", *QUIET, argument).refusal()
    assert MISFITS[argument] in refusal


HALF = """
class Half:
    def trials(self, records):
        return []

class Meter:
    def measure(self, gangs, study):
        yield {}
"""
NO_CLASSES = {
    "question._target_=my_question.Twoo": "my_question has no 'Twoo': did you mean 'my_question.Two'?",
    "question._target_=my_question.SIZES": "question._target_ 'my_question.SIZES' is not a class",
    "question._target_=models.Own": "question._target_ 'models.Own' has no method trials: an experiment needs trials(",
    "question._target_=my_question.Half": "has no method conclude: an experiment needs trials(records) and conclude(",
    "question._target_=my_question.Meter": "has no method announce: an experiment needs trials(records) and conclude("
    "records); a measurement needs announce(console, cluster), measure(gangs, study) and report(",
    "question._target_=.my_question.Two": "question._target_ '.my_question.Two' cannot be imported: ",
    "question._target_=experiments.own.Two": "is not searched: give that folder another name)",
}


@pytest.mark.parametrize("argument", NO_CLASSES)
def test_a_target_that_names_no_class_is_refused_with_the_reason(project, harness, monkeypatch, argument):
    for name in ("models", "my_question"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (project / "my_question.py").write_text(f"SIZES = [64]\n{EXPERIMENT}\n{HALF}")
    (project / "experiments").mkdir()
    (project / "experiments" / "own.py").write_text(EXPERIMENT)
    assert NO_CLASSES[argument] in harness("--config-dir", "conf", "+experiment=two", *QUIET, argument).refusal()


def test_a_class_of_experiments_is_the_same_however_it_is_named(tmp_path, monkeypatch):
    """Even where another package of that name was imported first and is found first."""
    (tmp_path / "experiments").mkdir()
    for name in ("__init__", "ablation"):
        (tmp_path / "experiments" / f"{name}.py").write_text("class Ablation: ...\n")
    (tmp_path / "own_ablation.py").write_text("from experiments.ablation import Ablation\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if f"{name}.".startswith("experiments.")]:
        monkeypatch.delitem(sys.modules, name)
    others = [finder for finder in sys.meta_path if type(finder).__module__ != "harness.plan.imports"]
    monkeypatch.setattr(sys, "meta_path", others)
    theirs = importlib.import_module("experiments.ablation").Ablation
    ours = question_class("experiments.ablation.Ablation")
    assert ours is question_class("own_ablation.Ablation") is sys.modules["experiments.ablation"].Ablation
    assert ours is not theirs
    assert ours.__module__ == "experiments.ablation"
