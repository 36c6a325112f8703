"""Sends a whole study to W&B from its journals; can be repeated without duplicates, whatever happened before.

Online the server says what it already has, offline the study's wandb folder does.
"""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.plan.errors import UserError
from harness.record.files import read_lines
from harness.record.study import StudyFolder
from harness.record.tracking.project import LEDGER, WandbProject
from harness.record.tracking.runs import (
    FORMAT,
    TrialPlan,
    attempt_of,
    is_success,
    kept_rows,
    summary_of,
    trial_plans,
)

UP_TO_DATE = {"format": FORMAT}


@dataclass
class Uploaded:
    """The result of an upload, in trials."""

    sent: int = 0
    there: int = 0  # complete before
    left: list[str] = field(default_factory=list)  # names of those that are still incomplete on the server


@dataclass(frozen=True)
class ExpectedRun:
    """What the run of one trial must contain, according to its journal."""

    plan: TrialPlan
    attempt: int
    run_id: str
    rows: list[dict[str, Any]]
    summary: dict[str, Any]
    success: bool


def expected_runs(folder: StudyFolder, project: WandbProject, finished_only: bool) -> Iterator[ExpectedRun]:
    """The run of every trial that has rows or a result, in plan order."""
    for key, plan in trial_plans(folder).items():
        attempt = attempt_of(folder.trial_path(plan.planned))
        record = folder.record(plan.planned)
        if attempt == 0 or (record.outcome is None and (finished_only or not record.evaluations)):
            continue
        rows = kept_rows(record)
        summary = summary_of(plan.settings, rows, record.record)
        run_id = project.label.run_id(key, attempt)
        yield ExpectedRun(plan, attempt, run_id, rows, summary, is_success(record.record))


def upload(folder: StudyFolder, project: WandbProject, finished_only: bool) -> Uploaded:
    """Send what the server lacks. `finished_only`: while a driver runs the study, its open trials are left to it."""
    runs = list(expected_runs(folder, project, finished_only))
    on_server = _on_server(project)
    missing = [run for run in runs if not _is_complete(run, on_server.get(run.run_id))]
    for run in missing:
        _check_prefix(run, on_server.get(run.run_id))
        _send(run, project)
    project.close()
    done = Uploaded(len(missing), len(runs) - len(missing))
    if missing:  # an accepted request is not yet a stored row: look again
        on_server = _on_server(project)
        done.left = [run.plan.name for run in missing if not _is_complete(run, on_server.get(run.run_id))]
        done.sent -= len(done.left)
    return done


def lacking(folder: StudyFolder, project: WandbProject) -> list[str]:
    """Names of the study's ended trials that are missing or incomplete on W&B."""
    runs = list(expected_runs(folder, project, finished_only=True))
    if project.destination.mode == "online":
        on_server = _on_server(project)
        return [run.plan.name for run in runs if not _is_complete(run, on_server.get(run.run_id), {})]
    ledger = _ledger(folder)
    return [run.plan.name for run in runs if not _is_kept(run, folder, ledger, {})]


def rebuild_offline(folder: StudyFolder, project: WandbProject) -> Uploaded:
    """Write the offline runs that are missing or torn; remove those of earlier attempts and torn ones."""
    done = Uploaded()
    offline = folder.path / "wandb"
    ledger = _ledger(folder)
    for run in list(expected_runs(folder, project, finished_only=False)):
        for attempt in range(1, run.attempt):
            _remove(offline.glob(f"offline-run-*-{project.label.run_id(run.plan.planned.key, attempt)}*"))
        if _is_kept(run, folder, ledger):
            done.there += 1
            continue
        _remove(offline.glob(f"offline-run-*-{run.run_id}*"))
        _send(run, project)
        done.sent += 1
    project.close()
    return done


def _ledger(folder: StudyFolder) -> dict[str, dict[str, Any]]:
    """Offline runs that are complete, by id."""
    rows = read_lines(folder.path / "wandb" / LEDGER)
    return {row["id"]: row for row in rows if isinstance(row.get("id"), str) and isinstance(row.get("folder"), str)}


def _is_kept(
    run: ExpectedRun,
    folder: StudyFolder,
    ledger: Mapping[str, dict[str, Any]],
    more: Mapping[str, Any] = UP_TO_DATE,
) -> bool:
    entry = ledger.get(run.run_id, {})
    content = {"rows": len(run.rows), "outcome": run.summary["outcome"], **more}
    return bool(entry) and (folder.path / "wandb" / entry["folder"]).is_dir() and content.items() <= entry.items()


def _send(run: ExpectedRun, project: WandbProject) -> None:
    project.open(run.plan, run.attempt, run.rows)
    project.finish(run.plan.planned.key, run.summary, run.success)


def _remove(folders: Iterator[Any]) -> None:
    for path in folders:
        shutil.rmtree(path)


def _on_server(project: WandbProject) -> dict[str, Mapping[str, Any]]:
    """Rows, state, outcome and format of the study's runs by id; empty where the project does not exist yet."""
    api = project.wandb.Api(timeout=60)
    filters = {"group": project.label.group, "jobType": "trial"}
    path = f"{project.destination.entity}/{project.destination.project}"
    try:
        runs = list(api.runs(path, filters=filters, per_page=200, lazy=False))
    except ValueError:  # "Could not find project"
        return {}
    return {
        run.id: {
            "rows": run.historyLineCount or 0,
            "state": run.state,
            "outcome": run.summary_metrics.get("outcome"),
            "format": run.config.get("run_format"),
        }
        for run in runs
    }


def _is_complete(run: ExpectedRun, on_server: Mapping[str, Any] | None, more: Mapping[str, Any] = UP_TO_DATE) -> bool:
    if on_server is None or on_server["state"] not in ("finished", "failed"):
        return False
    content = {"rows": len(run.rows), "outcome": run.summary["outcome"], **more}
    return content.items() <= on_server.items()


def _check_prefix(run: ExpectedRun, on_server: Mapping[str, Any] | None) -> None:
    """UserError if W&B has more rows of a run than the journal: they cannot be removed from it."""
    if on_server is not None and on_server["rows"] > len(run.rows):
        raise UserError(
            f"W&B has {on_server['rows']} rows of {run.plan.name} (run {run.run_id}), but the journal has "
            f"{len(run.rows)}: send the study under new run ids with --new-ids"
        )
