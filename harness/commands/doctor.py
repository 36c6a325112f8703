"""harness doctor: the checks of harness.train.doctor on a workload, before compute is spent on it."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.launch.causes import cause
from harness.launch.gang import Gang, GangError, InProcessGang, ProcessGang
from harness.plan.design import Design
from harness.plan.errors import UserError
from harness.plan.exit_codes import ExitCode
from harness.plan.trial import Trial
from harness.record.code_fingerprint import Fingerprint
from harness.record.examination import write_examination
from harness.train.doctor import PROBES, Check, Probes, examine
from harness.train.worker import Task


class Doctor:
    """The question whose answer is PASS or FAIL; it plans no trials, because probes are not results."""

    def __init__(self, design: Design, updates: int = 4) -> None:
        if updates < 2:
            raise UserError(f"question.updates must be >= 2, so that one update follows another, not {updates}")
        self.design = design
        self.updates = updates

    def trials(self, records: Records) -> list[Trial]:
        return []

    def conclude(self, records: Records) -> Findings:
        raise NotImplementedError("a doctor's verdict is printed, not concluded from records")

    def announce(self, console: Console, device: str, precision: str) -> None:
        """Print what will be checked, and at what cost."""
        workload = self.design.workload
        console.print(
            f"doctor: checking {workload.name} with {PROBES} probes of {self.updates} updates; splits of a batch are "
            f"compared in float64 on {_split_device(device)} without dropout, the rest in {precision} on {device}",
            highlight=False,
            soft_wrap=True,
        )

    def run(self, console: Console, folder: Path, code: Fingerprint, device: str, precision: str, threads: int) -> int:
        """Print every check and write them to `folder`/doctor.json, where later studies of the workload find them
        (`code`: fingerprint of the code that runs); exit code 0, or 1 where one failed."""
        self.announce(console, device, precision)
        split_device, workload = _split_device(device), self.design.workload
        with tempfile.TemporaryDirectory() as scratch:
            probes = Probes(workload, Path(scratch), self.updates, split_device, (device, precision))
            gangs = _Gangs(threads)
            try:
                checks = examine(probes, gangs.run, gangs.interrupt)
            except GangError as error:
                raise UserError(f"a probe of two ranks failed: {cause(str(error))}") from error
            finally:
                gangs.close()
        for check in checks:
            console.print(str(check), markup=False, highlight=False)
        write_examination(folder, workload, code, f"{precision} on {device}", checks)
        return _verdict(console, checks)


def main(arguments: Sequence[str] | None = None) -> int:
    """`harness doctor workload=NAME ...` is `harness +experiment=doctor workload=NAME ...`."""
    from harness.commands.sweep import main as sweep

    return sweep(["+experiment=doctor", *(sys.argv[1:] if arguments is None else arguments)])


def _split_device(device: str) -> str:
    """A device on which two ranks can run: with a single GPU, the CPU."""
    return device if device == "cpu" or torch.cuda.device_count() > 1 else "cpu"


def _verdict(console: Console, checks: list[Check]) -> int:
    failed = [check.name for check in checks if not check.passed]
    if failed:
        console.print(f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}", highlight=False)
        return ExitCode.FAILED
    console.print(f"all {len(checks)} checks passed", highlight=False)
    return ExitCode.DONE


class _Gangs:
    """One warm gang per (world size, device)."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._warm: dict[tuple[int, str], Gang] = {}

    def of(self, task: Task) -> Gang:
        world, device = task.topology.batch.world_size, task.topology.device
        if (world, device) not in self._warm:
            make = InProcessGang(device, self.threads) if world == 1 else ProcessGang(world, device, self.threads)
            self._warm[world, device] = make
        return self._warm[world, device]

    def run(self, task: Task) -> list[dict[str, Any]]:
        """All rows of a task, from its start or its last checkpoint to its end."""
        gang = self.of(task)
        gang.start(task)
        rows: list[dict[str, Any]] = []
        while not rows or rows[-1]["kind"] != "end":
            rows += gang.advance(60.0)
        return rows

    def interrupt(self, task: Task) -> list[dict[str, Any]]:
        """The same, but interrupted after the first evaluation and resumed from the checkpoint written there."""
        gang = self.of(task)
        gang.start(task)
        return gang.advance(0.0) + self.run(task)

    def close(self) -> None:
        for gang in self._warm.values():
            gang.close()
