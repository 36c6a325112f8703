"""Whatever a person gets wrong at any entry point ends in one line on stderr that says what was given, what is allowed
and what to do: exit code 2, nothing on stdout, nothing written, nothing started.

The inputs and their messages are in bad_inputs.txt; the files that they name are made by own_code.py.
"""

import contextlib
import io
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from made_up import planned
from own_code import write_project
from synthetic_study import write_study

from harness.commands.main import main
from harness.launch.tasks import task_of
from harness.record.files import write_json
from harness.train.trainer import Execution

LIST = Path(__file__).with_name("bad_inputs.txt")
WORDS = {  # that stand for others in the list
    "SWEEP": ["+experiment=tbs_sweep", "dry_run=true"],
    "OWN": ["--config-dir", "conf", "+experiment=tbs_sweep", "cluster=inline", "tracking=disabled", "dry_run=true"],
    "STUDY": ["studies/first"],
    "OTHER": ["studies/second"],
}

SMALL = ["+experiment=tbs_sweep", "question.total_batch_sizes=[512]", "seeds=[0]", "lr_scaling.rules=[linear]"]


class Case(NamedTuple):
    """A line of the list without its star, and the message below it, in which ` ...` stands for any end."""

    line: str
    message: str
    is_fast: bool

    @property
    def arguments(self) -> list[str]:
        words = [WORDS.get(word, [word]) for word in shlex.split(self.line)]
        return [word.replace("STUDY/", "studies/first/") for group in words for word in group]


def cases() -> Iterator[Case]:
    """Every input of the list; those with a star run in the fast suite too."""
    lines = [line for line in LIST.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    for line, message in zip(lines[::2], lines[1::2], strict=True):
        yield Case(line.removeprefix("* "), message.strip(), line.startswith("* "))


def parameters() -> list[object]:
    return [pytest.param(case, id=case.line, marks=() if case.is_fast else pytest.mark.long) for case in cases()]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Iterator[Path]:
    """The folder from which every command is given; it stays as it is."""
    folder = tmp_path_factory.mktemp("project")
    write_project(folder)
    for name in ("first", "second"):
        write_study(folder / "studies" / name, SMALL)
    for name, change in {"trial": {}, "edited": {"seed": 5}}.items():
        task = task_of(planned("linear", 512, 0), folder, Execution()).to_json()
        write_json(folder / f"{name}.json", {**task, **change})
    modules, path = set(sys.modules), list(sys.path)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
            del sys.modules[name]


def files(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*") if "__pycache__" not in path.parts}


def answer(project: Path, arguments: list[str]) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command, called in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    return code, out.getvalue(), err.getvalue().replace(str(project), "HERE")


@pytest.mark.parametrize("case", parameters())
def test_a_bad_input_ends_in_one_line_that_says_what_to_do(case: Case, project: Path, monkeypatch) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setenv("PATH", str(project))  # no sbatch
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    before = files(project)
    code, out, err = answer(project, case.arguments)
    assert (code, out) == (2, ""), err
    assert err.startswith("error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    shown, cut, _ = case.message.partition(" ...")
    said = err.removeprefix("error: ").rstrip("\n")
    assert said == case.message or (cut and said.startswith(shown))
    assert files(project) == before


def test_the_list_names_every_entry_point_and_is_long_enough() -> None:
    given = list(cases())
    assert len(given) >= 250
    assert len({case.line for case in given}) == len(given)
    first = {case.arguments[0] for case in given if case.arguments}
    assert {"sweep", "report", "status", "track", "published", "train", "doctor", "submit", "new"} <= first
    assert {"--shell-completion", "--config-dir", "+experiment=tbs_sweep"} <= first


MODULES = {"report": "harness.report", "train": "harness.train", "submit": "harness.submit", "status": "harness.status"}


@pytest.mark.long
@pytest.mark.parametrize("command", MODULES)
def test_the_module_forms_refuse_in_the_same_words(command: str, project: Path) -> None:
    case = next(case for case in cases() if case.line.startswith(f"{command} ") and "STUDY" not in case.line)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-m", MODULES[command], *case.arguments[1:]],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {case.message}\n")
