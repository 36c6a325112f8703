"""python -m harness.status STUDY: how far a study is, from its files alone; needs neither torch nor Ray."""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.plan.errors import UserError
from harness.plan.trial import PlannedTrial
from harness.record.journal import TrialRecord, newest_attempt
from harness.record.study import StudyFolder

BAD_INPUT = 2
LOG_WIDTH = 120


@dataclass(frozen=True)
class Standing:
    """One planned trial as its files tell it."""

    planned: PlannedTrial
    record: TrialRecord
    quiet_s: float | None  # since the last line of its journal; None before it has one

    @property
    def state(self) -> str:
        if self.record.outcome is not None:
            return str(self.record.outcome)
        return "waiting" if self.quiet_s is None else "begun"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 where the folder is no study."""
    parser = argparse.ArgumentParser(prog="harness.status", description=__doc__)
    parser.add_argument("study", type=Path, help="study folder, e.g. outputs/tbs_sweep/default")
    options = parser.parse_args(arguments)
    console = Console()
    if not console.is_terminal:
        console = Console(width=LOG_WIDTH)
    try:
        show(console, StudyFolder(options.study))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    return 0


def show(console: Console, folder: StudyFolder) -> None:
    """Who drives the study, how many trials stand where, and the ones under way. UserError: no study."""
    description = folder.description()
    standings = [_standing(folder, planned) for planned in {p.key: p for p in folder.plan()}.values()]
    counts = Counter(standing.state for standing in standings)
    finished = sum(standing.record.is_finished for standing in standings)
    console.print(f"{description['experiment']} {folder.path.name}: {finished} of {len(standings)} trials finished")
    console.print(
        "  " + (", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "nothing planned")
    )
    console.print(f"  {_driver(folder)}", markup=False, highlight=False)
    under_way = [standing for standing in standings if standing.state == "begun"]
    if under_way:
        console.print(_table(under_way))
    for standing in standings:
        if standing.state == "failed":
            reason = standing.record.record.get("error", "no reason given")
            console.print(f"failed: {standing.planned.trial.label}: {reason}", markup=False, highlight=False)


def _standing(folder: StudyFolder, planned: PlannedTrial) -> Standing:
    path = folder.trial_path(planned)
    try:
        written = (path / f"events.{newest_attempt(path)}.jsonl").stat().st_mtime
    except FileNotFoundError:
        return Standing(planned, folder.record(planned), None)
    return Standing(planned, folder.record(planned), max(0.0, time.time() - written))


def _driver(folder: StudyFolder) -> str:
    held = folder.lease_held()
    if not held:
        return "no driver has started yet"
    where = f"process {held['pid']} on {held['host']}, attempt {held['attempt']}"
    if folder.is_being_run:
        return f"running: {where}, heartbeat {max(0.0, time.time() - held['heartbeat']):.0f} s ago"
    ended = "given up" if held.get("released") else "died or lost its machine"
    return f"not running (last: {where}, {ended}): the same command goes on from here"


def _table(under_way: Sequence[Standing]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("under way", "epochs", "step", "metric", "last line"):
        table.add_column(title, justify="left" if title == "under way" else "right")
    for standing in under_way:
        settings = standing.planned.trial.arm.settings
        row = standing.record.evaluations[-1] if standing.record.evaluations else {}
        value = row.get("validation", {}).get(settings.averaging.decide_on, {}).get(settings.target.metric)
        table.add_row(
            standing.planned.trial.label,
            f"{row['epochs']:g}" if row else "-",
            str(row.get("step", "-")),
            "-" if value is None else f"{settings.target.metric} {value:.4f}",
            "-" if standing.quiet_s is None else f"{standing.quiet_s:.0f} s ago",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
