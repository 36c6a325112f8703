"""harness status STUDY: a study's progress, from its files alone; needs neither torch nor Ray."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.commands.entry import Parser, command, make_console
from harness.plan.counted import count
from harness.plan.exit_codes import ExitCode
from harness.plan.trial import PlannedTrial
from harness.record.claims import claimed_by
from harness.record.journal import TrialRecord, damaged, newest_attempt
from harness.record.study import StudyFolder


@dataclass(frozen=True)
class TrialStatus:
    """The status of one planned trial, according to its files."""

    planned: PlannedTrial
    record: TrialRecord
    quiet_s: float | None  # since the last line of its journal; None before the first line
    lease: str | None  # of the driver that has claimed it, where several share the study

    @property
    def state(self) -> str:
        if self.record.damage is not None:
            return "damaged"
        if self.record.outcome is not None:
            return str(self.record.outcome)
        return "waiting" if self.quiet_s is None else "started"


@command
def main(arguments: Sequence[str]) -> int:
    """Print a study's progress."""
    parser = Parser(prog="harness status", description=__doc__)
    parser.add_argument("study", type=Path, help="study folder, e.g. outputs/tbs_sweep/default")
    show(make_console(), StudyFolder(parser.parse_args(arguments).study))
    return ExitCode.DONE


def show(console: Console, folder: StudyFolder) -> None:
    """Print the drivers of a study, its trials by state, and the unfinished ones. UserError if it is not a study."""
    description = folder.description()
    if not folder.is_being_run:  # a driver that has just started has planned nothing yet
        folder.check_planned()
    trials = [_trial_status(folder, planned) for planned in {p.key: p for p in folder.plan()}.values()]
    counts = Counter(trial.state for trial in trials)
    finished = sum(trial.record.is_finished for trial in trials)
    console.print(
        f"{description['experiment']} {folder.path.name}: {finished} of {count(len(trials), 'trial')} finished"
    )
    console.print(
        "  " + (", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "nothing planned")
    )
    started = [trial for trial in trials if trial.state == "started"]
    for line in _drivers(folder, started):
        console.print(f"  {line}", markup=False, highlight=False)
    if started:
        drivers = {_lease(folder, driver): _name(driver) for driver in (folder, *folder.helpers())}
        console.print(_table(started, drivers))
    for line in folder.damage():
        console.print(damaged(line), markup=False, highlight=False, soft_wrap=True)
    for trial in trials:
        if trial.record.damage is not None:
            where = f"{trial.planned.trial.label}, trials/{trial.planned.key}: {trial.record.damage}"
            console.print(damaged(where), markup=False, highlight=False, soft_wrap=True)
        if trial.state == "failed":
            reason = trial.record.record.get("error", "no reason given")
            console.print(f"failed: {trial.planned.trial.label}: {reason}", markup=False, highlight=False)


def _trial_status(folder: StudyFolder, planned: PlannedTrial) -> TrialStatus:
    path = folder.trial_path(planned)
    try:
        written = (path / f"events.{newest_attempt(path)}.jsonl").stat().st_mtime
    except OSError:
        return TrialStatus(planned, folder.record(planned), None, None)
    claim = claimed_by(path) or {}
    return TrialStatus(planned, folder.record(planned), max(0.0, time.time() - written), claim.get("lease"))


def _drivers(folder: StudyFolder, started: Sequence[TrialStatus]) -> list[str]:
    """One line for the leading driver, and one for each helper that is alive or has left trials behind."""
    lease, helpers = folder.lease_held(), folder.helpers()
    if not lease:
        return ["no driver has started yet"]
    counts = {_lease(folder, driver): 0 for driver in (folder, *helpers)}
    for trial in started:
        if trial.lease in counts:
            counts[trial.lease] += 1
    process = f"process {_name(folder)}, attempt {lease['attempt']}"
    ended = "ended" if lease.get("released") else "died or lost its machine"
    lines = [f"not running (last: {process}, {ended}): run the same command again to resume"]
    if folder.is_being_run:
        lines = [f"running: {process}, {_heartbeat(folder)}" + (f", trials: {counts['.']}" if helpers else "")]
    for helper in helpers:
        count = counts[_lease(folder, helper)]
        if helper.is_being_run:
            lines.append(f"helper: process {_name(helper)}, {_heartbeat(helper)}, trials: {count}")
        elif count:
            lines.append(f"helper: process {_name(helper)} is gone, {count} of its trials wait for another driver")
    return lines


def _lease(study: StudyFolder, driver: StudyFolder) -> str:
    """The name of a driver's lease in claims."""
    return str(driver.path.relative_to(study.path))


def _name(driver: StudyFolder) -> str:
    lease = driver.lease_held() or {"pid": "?", "host": "an unknown host"}
    return f"{lease['pid']} on {lease['host']}"


def _heartbeat(driver: StudyFolder) -> str:
    lease = driver.lease_held()
    return f"heartbeat {max(0.0, time.time() - lease['heartbeat']):.0f} s ago" if lease else "no heartbeat"


def _table(started: Sequence[TrialStatus], drivers: Mapping[str, str]) -> Table:
    """One row per trial, with its driver if there are several; `drivers` by lease."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    several = len(drivers) > 1
    for title in ("started", "epochs", "step", "metric", "last line", *(["driver"] if several else [])):
        table.add_column(title, justify="left" if title == "started" else "right")
    for trial in started:
        settings = trial.planned.trial.arm.settings
        row = trial.record.evaluations[-1] if trial.record.evaluations else {}
        value = row.get("validation", {}).get(settings.averaging.decide_on, {}).get(settings.target.metric)
        table.add_row(
            trial.planned.trial.label,
            f"{row['epochs']:g}" if "epochs" in row else "-",
            str(row.get("step", "-")),
            "-" if value is None else f"{settings.target.metric} {value:.4f}",
            "-" if trial.quiet_s is None else f"{trial.quiet_s:.0f} s ago",
            *([drivers.get(trial.lease or "", "-")] if several else []),
        )
    return table
