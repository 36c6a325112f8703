"""A study's code fingerprint moves with the code that computes its numbers and with nothing else."""

import hashlib
import shutil
import sys
import time
from pathlib import Path

import pytest

from harness.record import code_fingerprint as module
from harness.record.code_fingerprint import (
    code_fingerprint,
    compatible_fingerprints,
    fingerprint_text,
    gives_the_same_numbers,
    syntax_text,
)

ARCHIVED = "5b0063882d0e6c5d"  # of tests/old_studies


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A copy of the package's sources that a test may change."""
    copy = tmp_path / "harness"
    shutil.copytree(module.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(module, "PACKAGE", copy)
    return copy


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# -- what moves it ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["plan/target.py", "models/mlp.py", "datasets/digits.py", "train/trainer.py"])
def test_code_that_computes_records_moves_the_fingerprint(package, file):
    before = code_fingerprint([])
    assert code_fingerprint([]) == before
    append(package / file, "\nANOTHER = 1\n")
    assert code_fingerprint([])["harness"] != before["harness"]


@pytest.mark.parametrize("file", ["analyse/crossing.py", "report/table.py", "launch/inline.py", "record/terminal.py"])
def test_analysis_reports_and_launching_leave_it_alone(package, file):
    before = code_fingerprint([])
    append(package / file, "\nANOTHER = 1\n")
    assert code_fingerprint([]) == before


def test_a_comment_a_docstring_and_formatting_leave_it_alone(package):
    before = code_fingerprint([])
    counts = package / "train" / "counts.py"
    append(counts, "\n# a remark\n")
    text = counts.read_text()
    assert text.startswith('"""')
    counts.write_text('"""Other words."""' + text[text.index('"""', 3) + 3 :].replace("\n\n\n", "\n\n\n\n"))
    assert code_fingerprint([]) == before


def test_a_changed_constant_moves_it(package):
    before = code_fingerprint([])
    replace(package / "optimizers" / "lamb.py", "eps: float = 1e-6", "eps: float = 1e-16")
    assert code_fingerprint([]) != before


def test_modules_that_trade_names_move_it(package):
    before = code_fingerprint([])
    one, other = package / "models" / "mlp.py", package / "models" / "quadratic.py"
    texts = one.read_text(), other.read_text()
    one.write_text(texts[1])
    other.write_text(texts[0])
    assert code_fingerprint([]) != before


def test_the_fingerprint_takes_a_fifth_of_a_second_at_most_and_nothing_the_second_time(package):
    """In seconds of this process, since tests share the machine; generous against a slow one."""
    began = time.process_time()
    code_fingerprint([])
    first = time.process_time()
    code_fingerprint([])
    assert first - began < 1.0
    assert time.process_time() - first < 0.1 * max(first - began, 0.1)


# -- a user's own files -----------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_own_layer", raising=False)  # of another test
    (tmp_path / "my_own_layer.py").write_text('"""Mine."""\n\n\nclass Layer:\n    width = 3\n\n    class Inner: ...\n')
    return tmp_path / "my_own_layer.py"


@pytest.mark.parametrize(
    "spec",
    [
        {"_target_": "my_own_layer.Layer"},
        {"_target_": "my_own_layer.Layer.Inner"},
        {"_target_": "harness.models.mlp.MLP", "layers": {"_target_": "my_own_layer.Layer"}},
        {"_target_": "harness.models.mlp.MLP", "layers": [{"_target_": "my_own_layer.Layer"}]},
    ],
)
def test_a_users_own_class_has_a_digest_of_its_own_which_its_code_moves(own, spec):
    before = code_fingerprint([spec])
    assert before["harness"] == code_fingerprint([])["harness"]
    append(own, "\n# a remark\n")
    assert code_fingerprint([spec]) == before
    replace(own, "width = 3", "width = 40")
    assert code_fingerprint([spec])["harness"] == before["harness"]
    assert code_fingerprint([spec])["own"] not in (None, before["own"])


def test_the_place_of_a_users_own_file_leaves_it_alone(own, tmp_path, monkeypatch):
    before = code_fingerprint([{"_target_": "my_own_layer.Layer"}])
    (tmp_path / "moved").mkdir()
    shutil.move(own, tmp_path / "moved" / own.name)
    monkeypatch.syspath_prepend(str(tmp_path / "moved"))
    assert code_fingerprint([{"_target_": "my_own_layer.Layer"}]) == before


def test_installed_packages_our_own_classes_and_modules_that_are_not_there_are_no_files_of_the_users():
    for target in ("sklearn.svm.SVC", "no.such.Thing", "harness.models.mlp.MLP", "experiments.tbs_sweep.TbsSweep"):
        assert code_fingerprint([{"_target_": target}])["own"] is None
    assert code_fingerprint([{"a": 1}])["own"] is None


def test_a_file_that_is_not_python_counts_by_its_bytes(own):
    own.write_text("def")
    before = code_fingerprint([{"_target_": "my_own_layer.Layer"}])
    append(own, "\n")
    assert code_fingerprint([{"_target_": "my_own_layer.Layer"}]) != before


# -- the same on every version of Python ------------------------------------------------------------------------------

SAMPLE = b'''"""A docstring."""
from __future__ import annotations
from a.b import c as d, e  # a comment
CONSTANTS = (1, 1.0, 1e-9, 1j, True, None, ..., "text \xc3\xa9", u"old", b"bytes", -0.0)
@decorator(x=1)
async def f(a: int, /, b=2, *args: str, c, d=None, **more) -> dict[str, int]:
    """Another docstring."""
    "a text that stands alone"
    async with a as b, c: pass
    return {**{}, "k": [i async for i in j if i], **more}
class K(Base, metaclass=Meta):
    """A docstring alone."""
def g(x, *, y=(lambda z: z)):
    match x:
        case {"a": 1, **rest} | [1, *_] | K(b=None): return f"{x!r:>{y}} a" "b" f"{x=}{y:}" f""
        case _ if (n := x): x: int = 3; del x
    try: global q; assert x, "no"
    except* E as e: raise e from None
    finally: x @= y[1:2, ...]; nonlocal_ = not x <= y != z
'''


def test_a_syntax_tree_has_one_text_on_every_version_of_python():
    """Python 3.11 to 3.14 agree on this digest and on those of 340 modules of the standard library and of ours."""
    text = syntax_text(SAMPLE)
    assert "docstring" not in text
    assert "alone" not in text
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "8c5cd0fe48630159"


def test_parts_of_an_f_string_count_as_they_read():
    assert syntax_text('f"a{x}b"') == syntax_text('f"a" f"{x}" "b"') == syntax_text('f"a{x:}" "b"')
    assert syntax_text('f"a{x}b"') != syntax_text('f"a{x!r}b"') != syntax_text('f"a{x:>3}b"')
    assert syntax_text("x = 1") != syntax_text("x = 1.0") != syntax_text("x = True")
    assert syntax_text("x = 'a'") != syntax_text("x = b'a'")


# -- which older code is as good as this ------------------------------------------------------------------------------

NOW = {"harness": "aaaa", "own": None}


def listed() -> str:
    return min(compatible_fingerprints())


def test_the_archives_fingerprint_is_listed():
    assert ARCHIVED in compatible_fingerprints()


@pytest.mark.parametrize(
    ("stored", "now", "alike"),
    [
        (NOW, NOW, True),
        ({"harness": "bbbb", "own": None}, NOW, False),
        (ARCHIVED, NOW, True),
        (ARCHIVED, {"harness": "aaaa", "own": "0001"}, False),
        ("another", NOW, False),
        ({"harness": ARCHIVED, "own": None}, NOW, True),
        ({"harness": ARCHIVED, "own": "0001"}, {"harness": "aaaa", "own": "0001"}, True),
        ({"harness": ARCHIVED, "own": "0001"}, {"harness": "aaaa", "own": "0002"}, False),
        ({"harness": ARCHIVED, "own": "0001"}, NOW, False),
        ({"harness": "aaaa", "own": "0001"}, NOW, False),
        ({}, NOW, False),
        (None, NOW, False),
    ],
)
def test_a_listed_fingerprint_is_as_good_as_ours_and_own_files_must_be_the_same(stored, now, alike):
    assert gives_the_same_numbers(stored, now) is alike


def test_a_fingerprint_reads_as_text():
    assert fingerprint_text(ARCHIVED) == ARCHIVED
    assert fingerprint_text(NOW) == "aaaa"
    assert fingerprint_text({"harness": "aaaa", "own": "bbbb"}) == "aaaa + own bbbb"
