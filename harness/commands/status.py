"""harness status STUDY: a study's progress, from its files alone; needs neither torch nor Ray."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.commands.entry import Parser, command, make_console
from harness.plan.counted import count
from harness.plan.exit_codes import ExitCode
from harness.plan.trial import PlannedTrial
from harness.record.claims import claimed_by
from harness.record.journal import TrialRecord, damaged, newest_attempt
from harness.record.study import StudyFolder
from harness.record.submission import Submission, read_submission
from harness.record.terminal import duration_text


@dataclass(frozen=True)
class TrialStatus:
    """The status of one planned trial, according to its files."""

    planned: PlannedTrial
    record: TrialRecord
    written_at: float | None  # last line of its journal, seconds since 1970; None before the first line
    lease: str | None  # of the driver that has claimed it, where several share the study
    finished_at: float | None = None  # seconds since 1970

    @property
    def quiet_s(self) -> float | None:
        """Seconds since the last line of its journal; None before the first line."""
        return None if self.written_at is None else max(0.0, time.time() - self.written_at)

    @property
    def state(self) -> str:
        if self.record.damage is not None:
            return "damaged"
        if self.record.outcome is not None:
            return str(self.record.outcome)
        return "waiting" if self.written_at is None else "started"


@command
def main(arguments: Sequence[str]) -> int:
    """Print a study's progress."""
    parser = Parser(prog="harness status", description=__doc__)
    parser.add_argument("study", type=Path, help="study folder, e.g. outputs/tbs_sweep/default")
    show(make_console(), StudyFolder(parser.parse_args(arguments).study))
    return ExitCode.DONE


def show(console: Console, folder: StudyFolder) -> None:
    """Print the state of a study, its trials by state, and the unfinished ones. UserError if it is not a study."""
    submission = read_submission(folder.path)
    if submission is not None and not folder.exists and not folder.lease_held():
        _print_lines(console, [f"{folder.path.parent.name} {folder.path.name}: {_queued(folder, submission)}"])
        return
    description = folder.description()
    if not folder.is_being_run:  # a driver that has just started has planned nothing yet
        folder.check_planned()
    trials = [_trial_status(folder, planned) for planned in {p.key: p for p in folder.plan()}.values()]
    counts = Counter(trial.state for trial in trials)
    finished = sum(trial.record.is_finished for trial in trials)
    name = f"{description['experiment']} {folder.path.name}"
    console.print(f"{name}: {finished} of {count(len(trials), 'trial')} finished")
    console.print(
        "  " + (", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "nothing planned")
    )
    started = [trial for trial in trials if trial.state == "started"]
    lease = folder.lease_held()
    if submission is not None and lease and submission.at > lease["heartbeat"] and not folder.is_being_run:
        lines = [_queued(folder, submission)]  # resumed: the next driver waits for its job
    else:
        lines = _drivers(folder, trials)
    _print_lines(console, [f"  {line}" for line in lines])
    if started:
        drivers = {_lease(folder, driver): _name(driver) for driver in (folder, *folder.helpers())}
        console.print(_table(started, drivers))
    _print_lines(console, map(damaged, folder.damage()))
    for trial in trials:
        label = trial.planned.trial.label
        if trial.record.damage is not None:
            _print_lines(console, [damaged(f"{label}, trials/{trial.planned.key}: {trial.record.damage}")])
        if trial.state == "failed":
            _print_lines(console, [f"failed: {label}: {trial.record.record.get('error', 'no reason given')}"])


def _print_lines(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _queued(folder: StudyFolder, submission: Submission) -> str:
    """A study whose job has not started a driver."""
    state = submission.state()
    if state is not None:
        verb = "starting" if state.startswith("running") else "queued"
        return f"{verb}: Slurm job {submission.job} is {state}"
    ago = duration_text(time.time() - submission.at)
    return (
        f"submitted {ago} ago as Slurm job {submission.job}, which has started no driver; squeue does not list it "
        f"here: see {folder.path}/slurm-*.out"
    )


def _trial_status(folder: StudyFolder, planned: PlannedTrial) -> TrialStatus:
    path = folder.trial_path(planned)
    written = _written_at(path / f"events.{newest_attempt(path)}.jsonl")
    lease = None if written is None else (claimed_by(path) or {}).get("lease")
    return TrialStatus(planned, folder.record(planned), written, lease, _written_at(path / "record.json"))


def _written_at(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _drivers(folder: StudyFolder, trials: Sequence[TrialStatus]) -> list[str]:
    """One line for the leading driver, and one for each helper that is alive or has left trials behind."""
    lease, helpers = folder.lease_held(), folder.helpers()
    if not lease:
        return ["no driver has started yet"]
    counts = {_lease(folder, driver): 0 for driver in (folder, *helpers)}
    for trial in trials:
        if trial.state == "started" and trial.lease in counts:
            counts[trial.lease] += 1
    process = f"process {_name(folder)}, attempt {lease['attempt']}"
    if folder.is_being_run:
        state, *time_left = _progress(trials, lease)
        own = [f"trials: {counts['.']}"] if helpers else []
        lines = [f"{state}: {', '.join([process, _heartbeat(folder), *own, *time_left])}"]
    elif trials and all(trial.record.is_finished for trial in trials) and (folder.path / "results.json").is_file():
        lines = [f"finished (last: {process})"]
    else:
        ended = "ended" if lease.get("released") else "died or lost its machine"
        lines = [f"not running (last: {process}, {ended}): run the same command again to resume"]
    for helper in helpers:
        count = counts[_lease(folder, helper)]
        if helper.is_being_run:
            lines.append(f"helper: process {_name(helper)}, {_heartbeat(helper)}, trials: {count}")
        elif count:
            lines.append(f"helper: process {_name(helper)} is gone, {count} of its trials wait for another driver")
    return lines


def _progress(trials: Sequence[TrialStatus], lease: Mapping[str, Any]) -> list[str]:
    """What a driver that is alive does: starting, or running, with the time left at the pace since it started."""
    began = float(lease.get("started", lease["heartbeat"]))
    ended = sum(trial.record.is_finished and (trial.finished_at or 0.0) >= began for trial in trials)
    running = sum(trial.state == "started" and (trial.written_at or 0.0) >= began for trial in trials)
    left = sum(not trial.record.is_finished for trial in trials)
    if not left and trials:
        return ["running", "every planned trial has ended"]
    if not ended:
        return ["running", "estimating the time left"] if running else ["starting"]
    pace_s = (time.time() - began) / (ended + running / 2)  # a running trial counts as half done
    return ["running", f"about {duration_text(pace_s * (left - running / 2))} left"]


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
