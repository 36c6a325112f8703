"""The main table on the terminal."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from harness.analyse.arms import ArmFinding
from harness.analyse.findings import Findings
from harness.report.numbers import number, place, seconds, span

COLUMNS = ("TBS", "rule", "LR", "reached", "epochs", "interval", "first touch", "steps", "s to target", "test")


def arm_cells(arm: ArmFinding) -> list[str]:
    """One row, in the order of COLUMNS."""
    found, outcomes = arm.place, arm.outcomes
    spoilt = f" ({outcomes.diverged} diverged)" if outcomes.diverged else ""
    touch = "-" if found.touch_examples == float("inf") else number(found.touch_examples / arm.train_examples)
    return [
        str(arm.total_batch_size),
        arm.label,
        number(arm.peak_lr),
        f"{outcomes.reached}/{arm.n}{spoilt}",
        place(found, arm.train_examples),
        span(found, arm.train_examples) if arm.n else "-",
        touch,
        place(found, arm.total_batch_size),
        seconds(arm),
        number(arm.test_metric),
    ]


def print_findings(console: Console, findings: Findings) -> None:
    """Verdict first, then the table, then what to keep in mind."""
    console.print()
    for line in findings.verdict:
        console.print(line, style="bold", markup=False, highlight=False, soft_wrap=True)
    for line in findings.not_established:
        console.print(f"not established: {line}", markup=False, highlight=False, soft_wrap=True)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in COLUMNS:
        table.add_column(title, justify="left" if title == "rule" else "right", no_wrap=True)
    previous = None
    for arm in findings.arms:
        if previous is not None and previous != arm.total_batch_size and len({a.label for a in findings.arms}) > 1:
            table.add_section()
        previous = arm.total_batch_size
        table.add_row(*arm_cells(arm))
    console.print(table)
    console.print(
        f"target: {findings.target}; {findings.protocol}", style="dim", markup=False, highlight=False, soft_wrap=True
    )
    for line in findings.caveats:
        console.print(f"note: {line}", style="dim", markup=False, highlight=False, soft_wrap=True)
