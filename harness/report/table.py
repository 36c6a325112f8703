"""What a study found, on the terminal."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.analyse.arms import ArmFinding
from harness.analyse.findings import Findings
from harness.analyse.sections import Section
from harness.report.numbers import number, place, seconds, section_columns, section_rows, span

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
    """Verdict first, then the table of arms, what the question adds, and what to keep in mind."""
    console.print()
    for line in findings.verdict:
        _say(console, line, "bold")
    for line in findings.not_established:
        _say(console, f"not established: {line}")
    if findings.aims_at_target:
        console.print(_arms_table(findings))
        _say(console, f"target: {findings.target}; {findings.protocol}", "dim")
    for section in findings.sections:
        _print_section(console, section, said=findings.verdict)
    if not findings.aims_at_target:
        _say(console, f"protocol: {findings.protocol}", "dim")
    for line in findings.caveats:
        _say(console, f"note: {line}", "dim")


def _say(console: Console, line: str, style: str = "") -> None:
    console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def _print_section(console: Console, section: Section, said: Sequence[str]) -> None:
    """Its tables, and its sentences unless they were `said` above; what was drawn is in the report."""
    console.print()
    _say(console, section.title, "bold")
    for line in section.sentences:
        if line not in said:
            _say(console, line)
    for kept in section.tables:
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for column, title in enumerate(section_columns(kept)):
            words = any(isinstance(row[column], str) for row in kept.rows)
            table.add_column(escape(title), justify="left" if words else "right", overflow="fold")
        for row in section_rows(kept):
            table.add_row(*map(escape, row))
        console.print(table)


def _arms_table(findings: Findings) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in COLUMNS:
        table.add_column(title, justify="left" if title == "rule" else "right", no_wrap=True)
    previous = None
    for arm in findings.arms:
        if previous is not None and previous != arm.total_batch_size and len({a.label for a in findings.arms}) > 1:
            table.add_section()
        previous = arm.total_batch_size
        table.add_row(*arm_cells(arm))
    return table
