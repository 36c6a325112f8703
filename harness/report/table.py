"""What a study found, on the terminal."""

import textwrap
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from harness.analyse.arms import ArmFinding
from harness.analyse.decision_sentences import FirstScreen
from harness.analyse.findings import Findings
from harness.analyse.sections import Section
from harness.analyse.sections import Table as Kept
from harness.report.numbers import cell, place, seconds, section_columns, section_rows, span
from harness.statistics.words import number

COLUMNS = ("TBS", "rule", "LR", "reached", "epochs", "95 % interval", "first touch", "steps", "s to target", "test")
HEADING = 9  # characters that a column's heading may have on a line whatever its cells have


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
        span(found, arm.train_examples),
        touch,
        place(found, arm.total_batch_size),
        seconds(arm),
        number(arm.test_metric),
    ]


def own_titles(findings: Findings) -> list[str]:
    """The columns that the user adds at the table's end."""
    return [name.replace("_", " ") for name in findings.own_columns]


def own_cells(findings: Findings, arm: ArmFinding) -> list[str]:
    """A row's cells of the user's own columns."""
    return [cell(arm.extra.get(name)) for name in findings.own_columns]


def own_notes(findings: Findings) -> list[str]:
    """What the user's own columns say of themselves."""
    return [f"{name.replace('_', ' ')}: {note}" for name, note in findings.own_columns.items() if note]


def print_findings(console: Console, findings: Findings) -> None:
    """The answer first, then the table of arms, what the question adds, and what to keep in mind."""
    console.print()
    for line in findings.damage:
        _say(console, line, "bold")
    if findings.first_screen is not None:
        _print_first_screen(console, findings.first_screen)
    for line in findings.verdict:
        _say(console, line, "" if findings.first_screen else "bold")
    for line in findings.not_established:
        _say(console, f"not established: {line}")
    if findings.aims_at_target:
        print_whole(console, _arms_table(findings))
        _say(console, f"target: {findings.target}; {findings.protocol}", "dim")
        for line in own_notes(findings):
            _say(console, line, "dim")
    for section in findings.sections:
        print_section(console, section, findings.sentences_of(section))
    if not findings.aims_at_target:
        _say(console, f"protocol: {findings.protocol}", "dim")
    for line in findings.caveats:
        if line not in findings.damage:
            _say(console, f"note: {line}", "dim")
    for line in findings.failed_sections:
        _say(console, f"error: {line}")


def _print_first_screen(console: Console, screen: FirstScreen) -> None:
    _say(console, screen.headline, "bold")
    for line in screen.lines:
        _say(console, line)
    widest = max((len(tile.title) for tile in screen.tiles), default=0)
    for tile in screen.tiles:
        _say(console, f"  {tile.title.ljust(widest)}  {tile.value}: {tile.note}")
    if screen.overturn:
        _say(console, screen.overturn, "dim")
    console.print()


def _say(console: Console, line: str, style: str = "") -> None:
    console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def print_section(console: Console, section: Section, sentences: Sequence[str]) -> None:
    """Its `sentences` and tables; what was drawn is in the report."""
    console.print()
    _say(console, section.title, "bold")
    for line in sentences:
        _say(console, line)
    for kept in section.tables:
        _print_table(console, kept)


def _print_table(console: Console, kept: Kept) -> None:
    """The columns in which rows differ, then what all rows share; a table wider than the terminal is not cut."""
    columns, rows = section_columns(kept), section_rows(kept)
    shared = [i for i in range(len(columns)) if len(rows) > 1 and len({row[i] for row in rows}) == 1]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for i, title in enumerate(columns):
        if i not in shared:
            widest = max([HEADING, *(len(row[i]) for row in rows)])
            words = any(isinstance(row[i], str) for row in kept.rows)
            heading = "\n".join(textwrap.wrap(title, widest, break_long_words=False))
            table.add_column(Text(heading), justify="left" if words else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for i, cell in enumerate(row) if i not in shared))  # a name may look like markup
    print_whole(console, table)
    if shared:
        _say(console, f"in every row: {', '.join(f'{columns[i]} {rows[0][i]}' for i in shared)}")


def print_whole(console: Console, table: Table) -> None:
    """At its own width: where the terminal is narrower its lines break, and no cell loses a character."""
    if (natural := Measurement.get(console, console.options.update(max_width=1000), table).maximum) > console.width:
        console.width = natural
    console.print(table, crop=False)


def _arms_table(findings: Findings) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in COLUMNS:
        table.add_column(title, justify="left" if title == "rule" else "right", no_wrap=True)
    for name, title in zip(findings.own_columns, own_titles(findings), strict=True):
        words = any(isinstance(arm.extra.get(name), str) for arm in findings.arms)
        table.add_column(Text(title), justify="left" if words else "right", no_wrap=True)
    previous = None
    for arm in findings.arms:
        if previous is not None and previous != arm.total_batch_size and len({a.label for a in findings.arms}) > 1:
            table.add_section()
        previous = arm.total_batch_size
        table.add_row(*map(Text, [*arm_cells(arm), *own_cells(findings, arm)]))
    return table
