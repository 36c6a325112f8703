"""Runs the command line, in a child process as a person would or in this one, and reads what it left."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from harness.commands.main import main

ROOT = Path(__file__).resolve().parents[2]

# An easy target keeps trials to a few evaluations: these tests are about what surrounds them.
EASY = ["workload.target.value=0.9", "cluster.timing_min_s=0.1"]
SMALL = ["+experiment=tbs_sweep", "seeds=[0,1]", "question.total_batch_sizes=[128,256]", "tracking=disabled", *EASY]


@dataclass
class Sweep:
    """A study folder and what the command said."""

    folder: Path
    code: int | None
    out: str
    err: str

    def records(self) -> dict[str, dict[str, Any]]:
        """record.json by trial folder."""
        found = sorted((self.folder / "trials").glob("*/*/record.json"))
        return {str(path.parent.relative_to(self.folder)): json.loads(path.read_text()) for path in found}

    def evaluations(self) -> dict[str, list[dict[str, Any]]]:
        """Evaluation rows by trial folder, attempts resolved by the project's own reader."""
        from harness.record.journal import read_trial

        folders = sorted((self.folder / "trials").glob("*/*"))
        return {str(path.relative_to(self.folder)): list(read_trial(path).evaluations) for path in folders}

    def science(self) -> dict[str, Any]:
        """Everything recorded but times and attempt numbers: what must not depend on the machine or on luck."""
        timeless = ("clock", "examples_per_s", "memory_peak_bytes", "machine", "attempt")
        records = {k: {n: v for n, v in r.items() if n not in timeless} for k, r in self.records().items()}
        rows = {
            k: [{n: v for n, v in row.items() if n not in timeless} for row in rows]
            for k, rows in self.evaluations().items()
        }
        return {"records": records, "rows": rows}


def command(output: Path, *arguments: str, study: str = "s") -> list[str]:
    return [sys.executable, "-m", "harness", *arguments, f"output_dir={output}", f"study={study}"]


def start(
    output: Path,
    *arguments: str,
    cwd: Path | None = None,
    study: str = "s",
    env: Mapping[str, str] = os.environ,
) -> "subprocess.Popen[str]":
    """The command in the background, in a process group of its own."""
    environment = {**env, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command(output, *arguments, study=study),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd or output,
        env=environment,
        start_new_session=True,
    )


def finish(process: "subprocess.Popen[str]", output: Path, timeout: float = 200, study: str = "s") -> Sweep:
    out, err = process.communicate(timeout=timeout)
    return Sweep(next(output.glob(f"*/{study}"), output), process.returncode, out, err)


def sweep(output: Path, *arguments: str, cwd: Path | None = None, study: str = "s") -> Sweep:
    """Run the command to its end."""
    return finish(start(output, *arguments, cwd=cwd, study=study), output, study=study)


def inline(output: Path, *arguments: str, study: str = "s") -> Sweep:
    """Run the command to its end in this process, without Ray: a child would pay for all imports again."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([*arguments, "cluster=inline", f"output_dir={output}", f"study={study}"])
    return Sweep(next(output.glob(f"*/{study}"), output), code, out.getvalue(), err.getvalue())


def worker_pids(driver: int, name: str) -> list[int]:
    """Processes of one Ray actor class below a driver."""
    found = []
    for child in psutil.Process(driver).children(recursive=True):
        try:
            if child.cmdline() and child.cmdline()[0].startswith(f"ray::{name}"):
                found.append(child.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
