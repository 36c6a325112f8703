"""P29: a study folder is data, whoever sent it; nothing in it is imported, called or followed."""

import contextlib
import importlib
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_study import SWEEP, write_study

import harness.commands
from harness.analyse.experiment import reopen
from harness.analyse.planned_rules import described_rules, factor_of, planned_rules
from harness.analyse.results import Records
from harness.commands.main import main
from harness.plan.errors import UserError
from harness.record.files import read_json, write_json
from harness.record.study import StudyFolder

SMALL = [*SWEEP[:1], "question.total_batch_sizes=[16,512]", "seeds=[0]", *SWEEP[3:]]
EVIL = """
from pathlib import Path
Path({planted!r}).write_text("imported")

def f(*arguments, **named):
    Path({planted!r}).write_text("called")
    return 1.0

class Question:
    def __init__(self, *arguments, **named):
        f()
    trials = conclude = f
"""
CUBE_ROOT = """
from harness.plan.scaling import Rule
third = Rule("cube_root", lambda k: k ** (1 / 3), 1 / 3, "a notebook")

def logarithmic(k):
    import math
    return 1 + math.log(k)
"""


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("harmless") / "study", SMALL).path


@pytest.fixture
def planted(harmless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that exists as soon as any planted code has run; the study and the working directory hold such code."""
    path, study = tmp_path / "planted", tmp_path / "work" / "study"
    shutil.copytree(harmless, study)
    for folder in (study.parent, study):
        (folder / "evil.py").write_text(EVIL.format(planted=str(path)))
    monkeypatch.chdir(study.parent)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    return path


def change(study: Path, **values: Any) -> None:
    """Replace parts of the configuration that study.json keeps."""
    description = json.loads((study / "study.json").read_text())
    description["config"].update(values)
    (study / "study.json").write_text(json.dumps(description))


QUESTIONS = {
    "a command": {"_target_": "pydoc.pipepager", "cmd": "touch ../planted"},
    "a module of the study": {"_target_": "study.evil.Question"},
    "a module of the working directory": {"_target_": "evil.Question"},
    "a function of the harness": {"_target_": "harness.record.files.write_whole", "text": "x"},
    "a class of the harness": {"_target_": "harness.commands.doctor.Doctor"},
    "a function that experiments import": {"_target_": "experiments.tbs_sweep.replace"},
    "a class that experiments import": {"_target_": "experiments.tbs_sweep.Findings"},
    "a package below experiments": {"_target_": "experiments.os.system"},
    "a module above experiments": {"_target_": "experiments.tbs_sweep.replace.__globals__"},
    "a folder above experiments": {"_target_": "experiments...evil.Question"},
    "nothing": {},
}


@pytest.mark.parametrize("command", ["report", "track"])
@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
def test_a_question_of_somebody_elses_is_neither_imported_nor_called(planted, question, command, capsys):
    change(Path("study"), question=question)
    assert main([command, "study", "--mode=offline"] if command == "track" else [command, "study"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: study study names code that does not come with the harness (question ")
    assert err.endswith(f"If you trust it: harness {command} study{' --mode=offline' * (command == 'track')} --trust\n")
    assert not planted.exists()
    assert "evil" not in sys.modules
    assert not Path("study/report.html").exists()


def test_columns_of_somebody_elses_are_not_imported(planted, capsys):
    change(Path("study"), arm_columns=["evil.f"])
    assert main(["report", "study"]) == 2
    assert "(column 'evil.f')" in capsys.readouterr().err
    assert not planted.exists()


def test_both_studies_of_a_comparison_are_data(planted, capsys):
    shutil.copytree("study", "other")
    change(Path("other"), question={"_target_": "evil.Question"})
    for pair in (["study", "other"], ["other", "study"]):
        assert main(["report", *pair, "--fail-if-slower", "5%"]) == 2
        trusting = shlex.join(["harness", "report", *pair, "--fail-if-slower", "5%", "--trust"])
        assert f"If you trust it: {trusting}\n" in capsys.readouterr().err
    assert not planted.exists()


def test_no_class_of_a_study_is_needed_to_report_it(planted, capsys):
    spec = {"_target_": "evil.Question", "nested": {"_target_": "evil.f"}}
    change(Path("study"), dataset=spec, model=spec, optimizer=spec, schedule=spec)
    for command in ("report", "status", "published"):
        assert main([command, "study"]) == 0, command
    assert not planted.exists()
    assert "evil" not in sys.modules


def test_the_command_that_a_refusal_prints_is_quoted_for_the_shell(planted, tmp_path, capsys):
    named = tmp_path / "work" / "a $(touch ..; planted) 'b'"
    Path("study").rename(named)
    change(named, question={"_target_": "evil.Question"})
    assert main(["report", str(named)]) == 2
    command = capsys.readouterr().err.partition("If you trust it: ")[2].strip()
    assert shlex.split(command) == ["harness", "report", str(named), "--trust"]


def test_trust_imports_what_the_study_names_from_the_working_directory(planted):
    change(Path("study"), question={"_target_": "evil.Question"})
    with contextlib.suppress(Exception):  # it is no question; that it was imported is the point
        main(["report", "study", "--trust"])
    assert planted.exists()


PLANTED = ("json", "pydoc", "csv", "rich", "jinja2", "numpy", "scipy", "matplotlib", "wandb", "experiments", "evil")


COMMANDS = ("-m harness status", "-m harness report", "-m harness published", "-m harness.report", "harness report")


@pytest.mark.long
def test_the_working_directory_is_not_searched_for_modules(planted):
    """In a folder that somebody sent, a file named like a module of Python's or ours is not imported."""
    for folder in (Path("."), Path("study")):
        for name in PLANTED:
            (folder / f"{name}.py").write_text(EVIL.format(planted=str(planted)))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(command: str, *arguments: str) -> int:
        program, *words = command.split()
        program = [sys.executable, program] if program == "-m" else [str(Path(sys.executable).with_name(program))]
        called = [*program, *words, "study", *arguments]
        return subprocess.run(called, env=environment, capture_output=True).returncode

    for command in COMMANDS:
        assert run(command) == 0, command
        assert not planted.exists(), command
    run("-m harness track", "--mode", "offline")  # the journals of this study are too plain for it
    assert not planted.exists()


@pytest.mark.parametrize("module", ["harness.__main__", "harness.report.__main__", "pytest.__main__", None])
def test_only_a_command_of_ours_leaves_the_working_directory_out(module, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [os.getcwd(), *sys.path])
    spec = None if module is None else SimpleNamespace(name=module)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec)
    importlib.reload(harness.commands)
    assert (os.getcwd() in sys.path) is not str(module).startswith("harness")


@pytest.fixture
def own_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyFolder:
    (tmp_path / "rules_of_a_study.py").write_text(CUBE_ROOT)
    monkeypatch.syspath_prepend(tmp_path)
    rules = "lr_scaling.rules=[none,rules_of_a_study.third,rules_of_a_study.logarithmic]"
    return write_study(tmp_path / "study", [*SMALL[:-1], rules])


def concluded(study: StudyFolder, trust: bool = False) -> dict[str, Any]:
    return reopen(study, trust)[0].conclude(Records(study)).to_json()


def test_own_rules_are_read_from_the_plan_and_give_the_same_report(own_rules, monkeypatch):
    trusted, path = concluded(own_rules, trust=True), own_rules.path / "study.json"
    rules = described_rules(reopen(own_rules, trust=True)[1].rules)
    write_json(path, {**read_json(path), "lr_rules": rules})
    monkeypatch.delitem(sys.modules, "rules_of_a_study")
    assert concluded(own_rules) == trusted
    assert "rules_of_a_study" not in sys.modules


def test_a_study_that_does_not_describe_its_rules_is_reported_by_the_labels_of_its_plan(own_rules, monkeypatch):
    trusted = concluded(own_rules, trust=True)
    monkeypatch.delitem(sys.modules, "rules_of_a_study")
    read = concluded(own_rules)
    assert read["arms"] == trusted["arms"]
    assert {arm["scaling_rule"] for arm in read["arms"]} == {"none", "cube_root", "rules_of_a_study.logarithmic"}
    assert "rules_of_a_study" not in sys.modules


def test_an_arm_that_was_never_planned_has_no_lr_without_the_rule(own_rules):
    (rule,) = planned_rules(own_rules, ["rules_of_a_study.logarithmic"]).values()
    assert rule.factor(32) == 1 + math.log(32)
    with pytest.raises(UserError, match="the plan has no arm there, and only --trust imports the rule"):
        rule.factor(8)


@settings(max_examples=200, deadline=None)
@given(base=st.floats(1e-6, 10), scale=st.floats(0.01, 100), factor=st.floats(1e-4, 1e6))
def test_the_factor_of_a_planned_rule_gives_every_lr_to_the_bit(base, scale, factor):
    pairs = [(lr, lr * factor) for lr in (base, base * scale)]
    assert all(lr * factor_of(pairs) == peak for lr, peak in pairs)
