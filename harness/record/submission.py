"""submission.json: the Slurm job that a study waits for, so that its progress can be asked for before it runs."""

import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from harness.record.files import read_json, write_json

NAME = "submission.json"
SQUEUE_S = 5.0  # Slurm's controller may be slow, and a person is waiting


@dataclass(frozen=True)
class Submission:
    """A job that `harness submit` has submitted."""

    job: str
    at: float  # seconds since 1970

    def state(self) -> str | None:
        """Slurm's word for its state, with the reason it waits; None where Slurm does not know the job (any more), or
        cannot be asked."""
        if shutil.which("squeue") is None:
            return None
        command = ["squeue", "--noheader", f"--jobs={self.job}", "--format=%T %r"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SQUEUE_S)
        except (OSError, subprocess.TimeoutExpired):
            return None
        lines = done.stdout.splitlines() if done.returncode == 0 else []
        if not lines:
            return None
        state, _, reason = lines[0].partition(" ")
        return state.lower() if reason in ("", "None") else f"{state.lower()}, {reason}"


def write_submission(study: Path, job: str) -> None:
    write_json(study / NAME, {"job": job, "at": time.time()})


def read_submission(study: Path) -> Submission | None:
    """The newest submitted job of a study; None where there is none."""
    value = read_json(study / NAME)
    try:
        return Submission(str(value["job"]), float(value["at"]))
    except (KeyError, TypeError, ValueError):
        return None
