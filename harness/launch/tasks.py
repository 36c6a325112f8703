"""From planned trials to tasks for workers, and the record of a trial that failed for good."""

import errno
from dataclasses import dataclass, replace
from pathlib import Path

from harness.plan.outcome import Outcome
from harness.plan.trial import PlannedTrial
from harness.record.journal import Attempt
from harness.record.limit import NAME as LIMIT
from harness.train.trainer import Execution
from harness.train.worker import Task


@dataclass(frozen=True)
class Cluster:
    """Where and how trials run; nothing here changes their numbers."""

    launcher: str  # inline | ray
    address: str  # local | host:port of a running Ray cluster
    cpus: int | None  # CPUs an embedded cluster may use; None: all this process may use
    cpus_per_worker: int
    gpus_per_worker: float
    max_failures: int  # retries of a trial, each from its checkpoint
    report_every_s: float
    grace_s: float  # from a signal until trials that have not stopped are given up
    node_wait_s: float  # for lost nodes to come back before a sweep that no longer fits ends
    execution: Execution

    @property
    def device(self) -> str:
        return "cuda" if self.gpus_per_worker else "cpu"


def task_of(planned: PlannedTrial, study: Path, execution: Execution, races: bool = False) -> Task:
    """The work order of one planned trial inside a study folder; one that `races` looks at its limit."""
    trial = planned.trial
    folder = study / "trials" / planned.key
    if races:
        execution = replace(execution, limit_file=str(folder / LIMIT))
    return Task(trial.trial_id, trial.arm.settings, trial.seed, planned.topology, str(folder), execution)


def write_failure(study: Path, key: str, reason: str) -> None:
    """Record that a trial failed for good: kept, counted, and run again by the next start of the study.

    OSError where the study cannot be written, or is not there: nothing is made in the place of a folder that is gone.
    """
    if not (study / "study.json").exists():
        raise OSError(errno.EIO, "the study is not there any more", str(study))
    folder = study / "trials" / key
    attempt = Attempt.claim(folder)
    attempt.finish({"outcome": Outcome.FAILED, "error": reason})
    attempt.close()
