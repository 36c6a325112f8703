"""The runs of one study in a W&B project: opened, fed, finished. The process that uses it has WANDB_MODE decided."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.record.files import append_lines
from harness.record.wandb_runs import AXES, StudyLabel, TrialPlan, metrics_of, run_config
from harness.record.wandb_settings import run_settings

if TYPE_CHECKING:
    import wandb

FINISHING_AT_ONCE = 8  # finishing waits for the server; trials that end together finish together
LEDGER = "finished.jsonl"  # in the study's wandb folder: offline runs that are whole


class WandbProject:
    """Projects a study's trials to W&B, any number of them at a time; an error of wandb is the caller's to catch."""

    name = "W&B"

    def __init__(self, study: Path, label: StudyLabel, project: str, entity: str | None, mode: str) -> None:
        import wandb

        self.wandb = wandb
        self.study, self.label, self.mode = study, label, mode
        self.place: dict[str, Any] = {"project": project, "entity": entity}
        self.url: str | None = None
        self.count = 0  # runs finished
        self._open: dict[str, tuple[wandb.Run, TrialPlan]] = {}
        self._finishing: list[Future[None]] = []
        self._pool = ThreadPoolExecutor(FINISHING_AT_ONCE, "wandb-finish")
        # One object for every run: wandb copies it, and making it takes a third of opening a run.
        self._settings = run_settings()

    def open(self, plan: TrialPlan, attempt: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Open the run of this attempt and give it the rows it continues behind."""
        run = self._init("trial", self.label.run_id(plan.planned.key, attempt), plan.name, plan.tags)
        run.config.update(run_config(plan, self.label, attempt))
        for axis in AXES:
            run.define_metric(axis, hidden=True)
        run.define_metric("*", step_metric="examples")
        self._open[plan.planned.key] = run, plan
        self.log(plan.planned.key, rows)

    def log(self, trial: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows in order of step; those a resumed run already has are passed over, so that each arrives once."""
        run, plan = self._open[trial]
        for row in rows:
            if row["step"] >= run.starting_step:
                run.log(metrics_of(row, plan.settings.averaging.decide_on), step=row["step"])

    def finish(self, trial: str, summary: Mapping[str, Any], success: bool) -> None:
        """Close the trial's run: `finished` on W&B, or `failed`, which no report counts."""
        self._raise_what_failed()
        run, _ = self._open.pop(trial)
        self._finishing.append(self._pool.submit(self._finish, run, dict(summary), success))

    def close(self) -> None:
        """Wait until every finished run is whole; runs still open are closed as failed."""
        for trial in list(self._open):
            self.finish(trial, {"outcome": "unfinished"}, success=False)
        self._pool.shutdown(wait=True)
        self._raise_what_failed()

    def log_table(self, run_id: str, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A run of job type report with one table, which the charts of a report draw from."""
        run = self._init("report", run_id, "report", [])
        run.log({name: self.wandb.Table(columns=list(columns), data=[list(row) for row in rows])})
        run.finish()

    def _init(self, job_type: str, run_id: str, name: str, tags: Sequence[str]) -> Any:
        run = self.wandb.init(
            **self.place,
            group=self.label.group,
            job_type=job_type,
            id=run_id,
            name=name[:128],
            tags=list(tags),
            dir=str(self.study),
            reinit="create_new",  # many runs at a time in this process, none of them global
            resume="allow" if self.mode == "online" else None,
            settings=self._settings,
        )
        self.url = run.project_url if self.mode == "online" else None
        return run

    def _finish(self, run: Any, summary: dict[str, Any], success: bool) -> None:
        run.summary.update(summary)
        folder = Path(run.dir).parent.name
        run.finish(exit_code=0 if success else 1)
        self.count += 1
        if self.mode == "offline":
            whole = {"id": run.id, "folder": folder, "rows": summary.get("journal_rows", 0), "at": time.time()}
            append_lines(self.study / "wandb" / LEDGER, [{**whole, "outcome": summary["outcome"]}])

    def _raise_what_failed(self) -> None:
        done = [future for future in self._finishing if future.done()]
        self._finishing = [future for future in self._finishing if future not in done]
        for future in done:
            future.result()
