"""What made a study's numbers: its fingerprint moves with the code that computes them and with nothing else."""

import shutil
from pathlib import Path

import pytest

from harness.record import provenance
from harness.record.provenance import code_fingerprint, cpu_model, git_state, usable_cpus, versions


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A copy of the package's sources that a test may change."""
    copy = tmp_path / "harness"
    shutil.copytree(provenance.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "PACKAGE", copy)
    return copy


def append(path: Path) -> None:
    path.write_text(path.read_text() + "\n# another line\n")


@pytest.mark.parametrize("room", ["plan/target.py", "models/mlp.py", "datasets/digits.py", "train/trainer.py"])
def test_the_fingerprint_moves_with_the_code_that_computes_records(package, room):
    before = code_fingerprint([])
    assert code_fingerprint([]) == before
    append(package / room)
    assert code_fingerprint([]) != before


@pytest.mark.parametrize("room", ["analyse/crossing.py", "report/table.py", "launch/inline.py", "record/terminal.py"])
def test_the_fingerprint_stays_where_only_analysis_reports_or_launching_change(package, room):
    before = code_fingerprint([])
    append(package / room)
    assert code_fingerprint([]) == before


def test_the_fingerprint_moves_with_a_users_own_class_also_a_nested_one(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_own_layer.py").write_text("class Layer: ...\n")
    spec = {"_target_": "harness.models.mlp.MLP", "layers": {"_target_": "my_own_layer.Layer"}}
    before = code_fingerprint([spec])
    assert before != code_fingerprint([])
    append(tmp_path / "my_own_layer.py")
    assert code_fingerprint([spec]) != before


def test_installed_packages_and_modules_that_are_not_there_leave_the_fingerprint_alone():
    plain = code_fingerprint([])
    assert code_fingerprint([{"_target_": "sklearn.svm.SVC"}, {"_target_": "no.such.Thing"}, {"a": 1}]) == plain


def test_versions_name_python_and_the_packages_that_shape_a_run():
    found = versions()
    assert {"python", "torch", "numpy", "scikit-learn"} <= set(found)
    assert "no-such-package" not in found


def test_a_folder_that_is_no_checkout_has_no_git_state(tmp_path):
    assert git_state(tmp_path) == {}


def test_the_machine_is_named():
    assert cpu_model()
    assert usable_cpus() >= 1
