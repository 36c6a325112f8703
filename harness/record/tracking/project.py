"""The runs of one study in a W&B project: opened, filled, finished. WANDB_MODE must be set before this is used."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.plan.outcome import Outcome
from harness.record.files import append_lines
from harness.record.tracking.alerts import Alert, trial_alert
from harness.record.tracking.runs import AXES, FORMAT, StudyLabel, TrialPlan, metrics_of, run_config
from harness.record.tracking.settings import run_settings

if TYPE_CHECKING:
    import wandb

FINISHING_AT_ONCE = 8  # finishing a run waits for the server; runs that end together finish in parallel
TITLE_LENGTH = 63  # W&B accepts fewer than 64 characters
LEDGER = "finished.jsonl"  # in the study's wandb folder: offline runs that are complete


@dataclass(frozen=True)
class RunDestination:
    """Where runs are written."""

    mode: str  # offline | online
    project: str
    entity: str | None  # the server's answer; not needed offline
    folder: Path  # W&B writes below <folder>/wandb; online that is scratch, offline it is the result
    finish_s: float = 0.0  # limit for the last rows of one run (TimeoutError); 0: only the whole process has a limit


class WandbProject:
    """Shows a study's trials in W&B, any number at a time; the caller must catch wandb's errors."""

    name = "W&B"

    def __init__(self, study: Path, label: StudyLabel, destination: RunDestination, is_live: bool = False) -> None:
        """`is_live`: for a sweep that is running, whose first diverged and first failed trial are alerted to."""
        import wandb

        self.wandb = wandb
        # Outcomes that are still to be alerted to.
        self._alert_to = {Outcome.DIVERGED, Outcome.FAILED} if is_live and destination.mode == "online" else set()
        self.study, self.label, self.destination = study, label, destination
        self.count = 0  # runs finished
        self.complete: set[str] = set()  # trials with a run that ended successfully
        self._open: dict[str, tuple[wandb.Run, TrialPlan]] = {}
        self._finishing: list[Future[None]] = []
        self._pool = ThreadPoolExecutor(FINISHING_AT_ONCE, "wandb-finish")
        # One object for all runs: wandb copies it, and making it takes a third of the time to open a run.
        self._settings = run_settings(finish_timeout=destination.finish_s, finish_timeout_raises=True)

    def warm_up(self) -> None:
        """Start wandb-core and import what the first run needs, while no trial is training yet. If this fails, the
        first run will report it."""
        with suppress(Exception):
            importlib.import_module("wandb.sdk.launch")
            self.wandb.setup().ensure_service()

    def open(self, plan: TrialPlan, attempt: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Open the run of this attempt and log the rows after which it continues."""
        run = self._init("trial", self.label.run_id(plan.planned.key, attempt), plan.name, plan.tags)
        run.config.update(run_config(plan, self.label, attempt))
        for axis in AXES:
            run.define_metric(axis, hidden=True)
        run.define_metric("*", step_metric="examples")
        self._open[plan.planned.key] = run, plan
        self.log(plan.planned.key, rows)

    def log(self, trial: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log rows in order of step; those that a resumed run already has are skipped, so that each is sent once."""
        run, plan = self._open[trial]
        for row in rows:
            if row["step"] >= run.starting_step:
                run.log(metrics_of(row, plan.settings.averaging.decide_on), step=row["step"])

    def finish(self, trial: str, summary: Mapping[str, Any], success: bool) -> None:
        """Close the trial's run: `finished` on W&B, or `failed`, which no report counts."""
        self._raise_errors()
        run, plan = self._open.pop(trial)
        if (outcome := summary["outcome"]) in self._alert_to:
            self._alert_to.remove(outcome)
            self.send_alert(run, trial_alert(plan.name, outcome))
        if success:
            self.complete.add(trial)
        self._finishing.append(self._pool.submit(self._finish, run, dict(summary), success))

    def close(self) -> None:
        """Wait until every finished run is complete; runs still open are closed as failed."""
        for trial in list(self._open):
            self.finish(trial, {"outcome": "unfinished"}, success=False)
        self._pool.shutdown(wait=True)
        self._raise_errors()

    @contextmanager
    def report_run(self) -> Iterator[Any]:
        """The study's one run of job type report, open: a table logged to it replaces the one that charts drew from."""
        run = self._init("report", self.label.report_run_id, "report", [])
        yield run
        run.finish()

    def send_alert(self, run: Any, alert: Alert) -> None:
        """`run` is only where it is shown; its title names the study."""
        title = f"{self.label.experiment} {self.label.name}: {alert.title}"
        run.alert(title[:TITLE_LENGTH], alert.text, alert.level)

    def _init(self, job_type: str, run_id: str, name: str, tags: Sequence[str]) -> Any:
        return self.wandb.init(
            entity=self.destination.entity,
            project=self.destination.project,
            group=self.label.group,
            job_type=job_type,
            id=run_id,
            name=name[:128],
            tags=list(tags),
            dir=str(self.destination.folder),
            reinit="create_new",  # many runs at a time in this process, none of them global
            resume="allow" if self.destination.mode == "online" else None,
            settings=self._settings,
        )

    def address(self) -> str | None:
        """The web address of the study's runs; None offline."""
        if self.destination.mode != "online":
            return None
        base = str(self.wandb.setup().settings.app_url)
        return f"{base}/{self.destination.entity}/{self.destination.project}/groups/{self.label.group}"

    def _finish(self, run: Any, summary: dict[str, Any], success: bool) -> None:
        run.summary.update(summary)
        folder = Path(run.dir).parent.name
        run.finish(exit_code=0 if success else 1)
        self.count += 1
        if self.destination.mode == "offline":
            entry = {"id": run.id, "folder": folder, "rows": summary.get("journal_rows", 0), "at": time.time()}
            entry |= {"outcome": summary["outcome"], "format": FORMAT}
            append_lines(self.study / "wandb" / LEDGER, [entry])

    def _raise_errors(self) -> None:
        done = [future for future in self._finishing if future.done()]
        self._finishing = [future for future in self._finishing if future not in done]
        for future in done:
            future.result()
