"""harness status STUDY: how far a study is, from its files alone; needs neither torch nor Ray."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.commands.entry import Parser, command, make_console
from harness.plan.exit_codes import ExitCode
from harness.plan.trial import PlannedTrial
from harness.record.claims import claimed_by
from harness.record.journal import TrialRecord, newest_attempt
from harness.record.study import StudyFolder


@dataclass(frozen=True)
class Standing:
    """One planned trial as its files tell it."""

    planned: PlannedTrial
    record: TrialRecord
    quiet_s: float | None  # since the last line of its journal; None before it has one
    lease: str | None  # of the driver that has claimed it, where several share the study

    @property
    def state(self) -> str:
        if self.record.outcome is not None:
            return str(self.record.outcome)
        return "waiting" if self.quiet_s is None else "begun"


@command
def main(arguments: Sequence[str]) -> int:
    """Print how far a study is."""
    parser = Parser(prog="harness status", description=__doc__)
    parser.add_argument("study", type=Path, help="study folder, e.g. outputs/tbs_sweep/default")
    show(make_console(), StudyFolder(parser.parse_args(arguments).study))
    return ExitCode.DONE


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
    under_way = [standing for standing in standings if standing.state == "begun"]
    for line in _drivers(folder, under_way):
        console.print(f"  {line}", markup=False, highlight=False)
    if under_way:
        console.print(_table(under_way, {_lease(folder, one): _name(one) for one in (folder, *folder.helpers())}))
    for standing in standings:
        if standing.state == "failed":
            reason = standing.record.record.get("error", "no reason given")
            console.print(f"failed: {standing.planned.trial.label}: {reason}", markup=False, highlight=False)


def _standing(folder: StudyFolder, planned: PlannedTrial) -> Standing:
    path = folder.trial_path(planned)
    try:
        written = (path / f"events.{newest_attempt(path)}.jsonl").stat().st_mtime
    except FileNotFoundError:
        return Standing(planned, folder.record(planned), None, None)
    claim = claimed_by(path) or {}
    return Standing(planned, folder.record(planned), max(0.0, time.time() - written), claim.get("lease"))


def _drivers(folder: StudyFolder, under_way: Sequence[Standing]) -> list[str]:
    """One line on the driver that leads, and one on each helper that lives or has left a trial behind."""
    held, helpers = folder.lease_held(), folder.helpers()
    if not held:
        return ["no driver has started yet"]
    runs = {_lease(folder, one): 0 for one in (folder, *helpers)}
    for standing in under_way:
        if standing.lease in runs:
            runs[standing.lease] += 1
    where = f"process {_name(folder)}, attempt {held['attempt']}"
    ended = "given up" if held.get("released") else "died or lost its machine"
    lines = [f"not running (last: {where}, {ended}): the same command goes on from here"]
    if folder.is_being_run:
        lines = [f"running: {where}, {_heartbeat(folder)}" + (f", runs {runs['.']}" if helpers else "")]
    for helper in helpers:
        count = runs[_lease(folder, helper)]
        if helper.is_being_run:
            lines.append(f"helper: process {_name(helper)}, {_heartbeat(helper)}, runs {count}")
        elif count:
            lines.append(f"helper: process {_name(helper)} is gone, {count} of its trials wait for another driver")
    return lines


def _lease(study: StudyFolder, driver: StudyFolder) -> str:
    """As claims call it."""
    return str(driver.path.relative_to(study.path))


def _name(driver: StudyFolder) -> str:
    held = driver.lease_held() or {"pid": "?", "host": "an unknown host"}
    return f"{held['pid']} on {held['host']}"


def _heartbeat(driver: StudyFolder) -> str:
    held = driver.lease_held()
    return f"heartbeat {max(0.0, time.time() - held['heartbeat']):.0f} s ago" if held else "no heartbeat"


def _table(under_way: Sequence[Standing], drivers: Mapping[str, str]) -> Table:
    """One row a trial, with its driver where there are several; `drivers` by lease."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    several = len(drivers) > 1
    for title in ("under way", "epochs", "step", "metric", "last line", *(["driver"] if several else [])):
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
            *([drivers.get(standing.lease or "", "-")] if several else []),
        )
    return table
