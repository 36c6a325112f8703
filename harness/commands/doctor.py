"""harness doctor: the checks of harness.train.doctor on a workload, before compute is spent on it."""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console

from harness.launch.causes import cause
from harness.launch.gang import Gang, GangError
from harness.launch.measures import Gangs, Row
from harness.launch.tasks import Cluster
from harness.plan.design import Design
from harness.plan.errors import UserError
from harness.plan.exit_codes import ExitCode
from harness.record.code_fingerprint import Fingerprint
from harness.record.examination import write_examination
from harness.train.doctor import PROBES, Check, Probes, Rows, examine
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
            f"doctor: checking {self.workload.name} with {PROBES} probes of {self.updates} updates; splits of a batch "
            f"are compared in float64 on {_split_device(cluster.device)} without dropout, the rest in "
            f"{cluster.precision} on {cluster.device}",
            highlight=False,
            soft_wrap=True,
        )

    def measure(self, gangs: Gangs, study: Path) -> Iterator[Row]:
        """One row per check: its name, whether it passed, and the numbers. Probes leave nothing in the study."""
        cluster = gangs.cluster
        with tempfile.TemporaryDirectory() as scratch:
            where = (cluster.device, cluster.precision)
            probes = Probes(self.workload, Path(scratch), self.updates, _split_device(cluster.device), where)
            try:
                checks = examine(probes, lambda task: _run(gangs, task), lambda task: _interrupt(gangs, task))
            except GangError as error:
                raise UserError(f"a probe of two ranks failed: {cause(str(error))}") from error
        yield from map(vars, checks)

    def report(self, console: Console, rows: Sequence[Row], study: Path, cluster: Cluster, code: Fingerprint) -> int:
        """Print every check and write them to doctor.json, where later studies of the workload find them."""
        checks = [Check(**row) for row in rows]
        for check in checks:
            console.print(str(check), markup=False, highlight=False)
        write_examination(study, self.workload, code, f"{cluster.precision} on {cluster.device}", checks)
        failed = [check.name for check in checks if not check.passed]
        if failed:
            console.print(f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}", highlight=False)
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


def _run(gangs: Gangs, task: Task) -> Rows:
    """All rows of a task, from its start or its last checkpoint to its end."""
    gang = _started(gangs, task)
    rows: Rows = []
    while not rows or rows[-1]["kind"] != "end":
        rows += gang.advance(60.0)
    return rows


def _interrupt(gangs: Gangs, task: Task) -> Rows:
    """The same, but interrupted after the first evaluation and resumed from the checkpoint written there."""
    return _started(gangs, task).advance(0.0) + _run(gangs, task)


def _started(gangs: Gangs, task: Task) -> Gang:
    gang = gangs.of(task.topology.batch.world_size, task.topology.device)
    gang.start(task)
    return gang
