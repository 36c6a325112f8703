"""harness doctor: the checks of harness.train.doctor on a workload, before compute is spent on it."""

import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from harness.datasets.examples import Splits
from harness.launch.causes import cause
from harness.launch.gang import Gang, GangError
from harness.launch.measures import Gangs, Row
from harness.launch.tasks import Cluster
from harness.plan.design import Design
from harness.plan.errors import UserError
from harness.plan.exit_codes import ExitCode
from harness.plan.imports import user_code
from harness.plan.instantiate import instantiate
from harness.record.code_fingerprint import Fingerprint
from harness.record.examination import write_examination
from harness.train.check import Check
from harness.train.doctor import PROBES, ProbeError, Rows, examine
from harness.train.model_checks import examine_model
from harness.train.probes import Probes
from harness.train.rehearsal import rehearse
from harness.train.subject import Subject
from harness.train.worker import Task


class Doctor:
    """A Measurement whose answer is PASS or FAIL; it plans no trials, because probes are not results."""

    def __init__(self, design: Design, updates: int = 4) -> None:
        if updates < 2:
            raise UserError(f"question.updates must be >= 2, so that one update follows another, not {updates}")
        self.workload = design.workload
        self.updates = updates

    def announce(self, console: Console, cluster: Cluster) -> None:
        console.print(
            f"doctor: checking {self.workload.name} with calls of its model and {PROBES} probes of {self.updates} "
            f"updates; splits of a batch are compared in float64 on {_split_device(cluster.device)} without dropout, "
            f"the rest in {cluster.precision} on {cluster.device}",
            highlight=False,
            soft_wrap=True,
        )

    def measure(self, gangs: Gangs, study: Path) -> Iterator[Row]:
        """One row per check, its fields. Probes leave nothing in the study. UserError if the model cannot be called."""
        cluster, workload = gangs.cluster, self.workload
        with tempfile.TemporaryDirectory() as scratch:
            where = (cluster.device, cluster.precision)
            probes = Probes(workload, Path(scratch), self.updates, _split_device(cluster.device), where)
            gangs.of(1, probes.device)  # sets the threads of this process
            dataset = workload.dataset["_target_"]
            with user_code(f"dataset {dataset} cannot be loaded"):
                splits = instantiate(workload.dataset).load()
            rehearse([probes.planned()], splits, cluster.execution, rejects_state=False)  # that is a finding
            with user_code(f"model {workload.model['_target_']} cannot be trained on {dataset}"):
                probes, subject = _placed(probes, splits)
                yield from map(vars, examine_model(subject))
            probes = replace(probes, precision=subject.topology.precision, has_chance=subject.has_chance)
            checks = examine(probes, lambda task: _run(gangs, task), lambda task: _interrupt(gangs, task))
            yield from map(vars, checks)

    def report(self, console: Console, rows: Sequence[Row], study: Path, cluster: Cluster, code: Fingerprint) -> int:
        """Print every check and write them to doctor.json, where later studies of the workload find them."""
        checks = [Check(**row) for row in rows]
        for check in checks:
            console.print(str(check), markup=False, highlight=False, soft_wrap=True)
        write_examination(study, self.workload, code, f"{cluster.precision} on {cluster.device}", checks)
        failed = [check.name for check in checks if not check.passed]
        if failed:
            console.print(
                f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}", highlight=False, soft_wrap=True
            )
            return ExitCode.FAILED
        console.print(f"all {len(checks)} checks passed", highlight=False)
        return ExitCode.DONE


def main(arguments: Sequence[str] | None = None) -> int:
    """`harness doctor workload=NAME ...` is `harness +experiment=doctor workload=NAME ...`."""
    from harness.commands.sweep import main as sweep

    return sweep(["+experiment=doctor", *(sys.argv[1:] if arguments is None else arguments)])


def _split_device(device: str) -> str:
    """A device on which two ranks can run: with a single GPU, the CPU."""
    return device if device == "cpu" or torch.cuda.device_count() > 1 else "cpu"


def _placed(probes: Probes, splits: Splits) -> tuple[Probes, Subject]:
    """The probes and the subject where the model runs: a model for GPUs only is examined on the one GPU, which has room
    for one rank."""
    try:
        return probes, probes.subject(splits)
    except Exception:
        if probes.device == probes.topology[0]:
            raise
    alone = replace(probes, device=probes.topology[0], ranks=1)
    return alone, alone.subject(splits)


def _run(gangs: Gangs, task: Task) -> Rows:
    """All rows of a task, from its start or its last checkpoint to its end; ProbeError if it fails."""
    with _named_failure(gangs, task):
        return _rows(_started(gangs, task))


def _interrupt(gangs: Gangs, task: Task) -> Rows:
    """The same, but interrupted after the first evaluation and resumed from the checkpoint written there."""
    with _named_failure(gangs, task):
        return _started(gangs, task).advance(0.0) + _rows(_started(gangs, task))


def _rows(gang: Gang) -> Rows:
    rows: Rows = []
    while not rows or rows[-1]["kind"] != "end":
        rows += gang.advance(60.0)
    return rows


def _started(gangs: Gangs, task: Task) -> Gang:
    gang = gangs.of(task.topology.batch.world_size, task.topology.device)
    gang.start(task)
    return gang


@contextmanager
def _named_failure(gangs: Gangs, task: Task) -> Iterator[None]:
    """Turn whatever a probe raises into a ProbeError with its cause, and never use its gang again (P21)."""
    try:
        yield
    except (Exception, SystemExit) as error:  # a model may call sys.exit
        gangs.drop(task.topology.batch.world_size, task.topology.device)
        reason = cause(str(error) if isinstance(error, GangError) else traceback.format_exc())
        raise ProbeError(reason) from error
