"""A whole study to W&B from its journals: again and again without doubling anything, whatever happened before.

Online, the server itself says what it already has; offline, the study's wandb folder does.
"""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.plan.errors import UserError
from harness.record.files import read_lines
from harness.record.study import StudyFolder
from harness.record.tracking.project import LEDGER, WandbProject
from harness.record.tracking.runs import TrialPlan, attempt_of, is_success, kept_rows, summary_of, trial_plans


@dataclass
class Uploaded:
    """What an upload came to, in trials."""

    sent: int = 0
    there: int = 0  # whole before
    left: list[str] = field(default_factory=list)  # names of those the server still does not have whole


@dataclass(frozen=True)
class Told:
    """One trial as its journal tells it: what its run has to hold."""

    plan: TrialPlan
    attempt: int
    run_id: str
    rows: list[dict[str, Any]]
    summary: dict[str, Any]
    success: bool


def told_trials(folder: StudyFolder, project: WandbProject, finished_only: bool) -> Iterator[Told]:
    """Every trial that has rows or a result, in plan order."""
    for key, plan in trial_plans(folder).items():
        attempt = attempt_of(folder.trial_path(plan.planned))
        record = folder.record(plan.planned)
        if attempt == 0 or (record.outcome is None and (finished_only or not record.evaluations)):
            continue
        rows = kept_rows(record)
        summary = summary_of(plan.settings, rows, record.record)
        run_id = project.label.run_id(key, attempt)
        yield Told(plan, attempt, run_id, rows, summary, is_success(record.record))


def upload(folder: StudyFolder, project: WandbProject, finished_only: bool) -> Uploaded:
    """Send what the server lacks. `finished_only`: while a driver runs the study, its open trials are left to it."""
    trials = list(told_trials(folder, project, finished_only))
    known = _on_server(project)
    missing = [told for told in trials if not _is_whole(told, known.get(told.run_id))]
    for told in missing:
        _check_prefix(told, known.get(told.run_id))
        _send(told, project)
    project.close()
    done = Uploaded(len(missing), len(trials) - len(missing))
    if missing:  # an accepted request is not yet a stored row: look again
        known = _on_server(project)
        done.left = [told.plan.name for told in missing if not _is_whole(told, known.get(told.run_id))]
        done.sent -= len(done.left)
    return done


def lacking(folder: StudyFolder, project: WandbProject) -> list[str]:
    """Names of the study's ended trials that W&B does not have whole."""
    trials = list(told_trials(folder, project, finished_only=True))
    if project.place.mode == "online":
        known = _on_server(project)
        return [told.plan.name for told in trials if not _is_whole(told, known.get(told.run_id))]
    ledger = _ledger(folder)
    return [told.plan.name for told in trials if not _is_kept(told, folder, ledger)]


def rebuild_offline(folder: StudyFolder, project: WandbProject) -> Uploaded:
    """Write the offline runs that are missing or torn; remove what earlier attempts and torn ones left."""
    done = Uploaded()
    place = folder.path / "wandb"
    ledger = _ledger(folder)
    for told in list(told_trials(folder, project, finished_only=False)):
        for attempt in range(1, told.attempt):
            _remove(place.glob(f"offline-run-*-{project.label.run_id(told.plan.planned.key, attempt)}*"))
        if _is_kept(told, folder, ledger):
            done.there += 1
            continue
        _remove(place.glob(f"offline-run-*-{told.run_id}*"))
        _send(told, project)
        done.sent += 1
    project.close()
    return done


def _ledger(folder: StudyFolder) -> dict[str, dict[str, Any]]:
    """Offline runs that are whole, by id."""
    return {row["id"]: row for row in read_lines(folder.path / "wandb" / LEDGER)}


def _is_kept(told: Told, folder: StudyFolder, ledger: Mapping[str, dict[str, Any]]) -> bool:
    entry = ledger.get(told.run_id, {})
    content = {"rows": len(told.rows), "outcome": told.summary["outcome"]}
    return bool(entry) and (folder.path / "wandb" / entry["folder"]).is_dir() and content.items() <= entry.items()


def _send(told: Told, project: WandbProject) -> None:
    project.open(told.plan, told.attempt, told.rows)
    project.finish(told.plan.planned.key, told.summary, told.success)


def _remove(folders: Iterator[Any]) -> None:
    for path in folders:
        shutil.rmtree(path)


def _on_server(project: WandbProject) -> dict[str, Mapping[str, Any]]:
    """Rows, state and outcome of the study's runs by id; empty where the project does not exist yet."""
    api = project.wandb.Api(timeout=60)
    filters = {"group": project.label.group, "jobType": "trial"}
    try:
        runs = list(
            api.runs(f"{project.place.entity}/{project.place.project}", filters=filters, per_page=200, lazy=False)
        )
    except ValueError:  # "Could not find project"
        return {}
    return {
        run.id: {
            "rows": run.historyLineCount or 0,
            "state": run.state,
            "outcome": run.summary_metrics.get("outcome"),
        }
        for run in runs
    }


def _is_whole(told: Told, known: Mapping[str, Any] | None) -> bool:
    if known is None or known["state"] not in ("finished", "failed"):
        return False
    return known["rows"] == len(told.rows) and known["outcome"] == told.summary["outcome"]


def _check_prefix(told: Told, known: Mapping[str, Any] | None) -> None:
    """What W&B has of a run is always the journal's beginning; more than the journal cannot be taken back."""
    if known is not None and known["rows"] > len(told.rows):
        raise UserError(
            f"W&B holds {known['rows']} rows of {told.plan.name} (run {told.run_id}) and the journal {len(told.rows)}: "
            "send the study under new run ids with --new-ids"
        )
