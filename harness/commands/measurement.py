"""Runs a question that is answered by measuring, without trials: `harness doctor`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from rich.console import Console

from harness.config.configuration import Configuration
from harness.launch.inline import InlineGangs
from harness.launch.measures import Measures, Row
from harness.launch.tasks import Cluster
from harness.plan.exit_codes import ExitCode
from harness.plan.imports import user_code
from harness.record.code_fingerprint import Fingerprint, code_fingerprint


@runtime_checkable
class Measurement(Measures, Protocol):
    """What `question._target_` may name instead of an Experiment."""

    def announce(self, console: Console, cluster: Cluster) -> None:
        """Print what will be measured, and at what cost."""
        ...

    def report(self, console: Console, rows: Sequence[Row], study: Path, cluster: Cluster, code: Fingerprint) -> int:
        """Print the rows and write them to the study's folder (`code`: fingerprint of the code that ran); returns the
        exit code."""
        ...


def run_measurement(question: Measurement, config: Configuration, cluster: Cluster, console: Console) -> int:
    """Measure in this process and report; a dry run announces only."""
    with user_code(f"question {type(question).__name__} fails"):
        question.announce(console, cluster)
    if config.dry_run:
        return ExitCode.DONE
    code = code_fingerprint(config.trial_specs)  # of the code as it is before it runs
    gangs = InlineGangs(cluster)
    try:
        rows = list(question.measure(gangs, config.folder))
    finally:
        gangs.close()
    return question.report(console, rows, config.folder, cluster, code)
