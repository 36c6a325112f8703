"""The command line called in this process, as a person would from an empty folder."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from harness.commands.main import main


@dataclass(frozen=True)
class Said:
    """What one command answered, and where it was given."""

    code: int
    out: str
    err: str
    folder: Path
    ray_started: list[str]  # command lines of Ray's servers that were not there before

    def refusal(self) -> str:
        """The one line that refused the command; fails unless nothing was printed, written or started besides."""
        assert self.code == 2, self.out + self.err
        assert self.out == ""
        assert self.err.startswith("error: ")
        assert self.err.count("\n") == 1, self.err
        assert self.err.endswith("\n")
        assert not list(self.folder.rglob("study.json"))
        assert not (self.folder / "outputs").exists()
        assert not self.ray_started
        return self.err.removeprefix("error: ").rstrip("\n")


def ray_processes() -> list[str]:
    """Command lines of Ray's servers below this process."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            found.append(" ".join(child.cmdline()))
        except psutil.Error:
            continue
    return [line for line in found if "raylet" in line or "gcs_server" in line]


Command = Callable[..., Said]


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`harness(arguments ...)` from `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))  # the command adds the current folder

    def call(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["harness", *arguments])
        capsys.readouterr()
        before = ray_processes()
        code = main()
        started = [line for line in ray_processes() if line not in before]
        said = capsys.readouterr()
        return Said(code, said.out, said.err, tmp_path, started)

    return call


@pytest.fixture
def sweep(harness: Command) -> Command:
    """`sweep(arguments ...)` is the default sweep with them; what is not refused only prints its plan."""
    return lambda *arguments: harness("+experiment=tbs_sweep", *arguments, "dry_run=true")
