"""The runs of one study in a W&B project: opened, fed, finished. The process that uses it has WANDB_MODE decided."""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.record.files import append_lines
from harness.record.tracking.runs import AXES, StudyLabel, TrialPlan, metrics_of, run_config
from harness.record.tracking.settings import run_settings

if TYPE_CHECKING:
    import wandb

FINISHING_AT_ONCE = 8  # finishing waits for the server; trials that end together finish together
LEDGER = "finished.jsonl"  # in the study's wandb folder: offline runs that are whole


@dataclass(frozen=True)
class Place:
    """Where runs go."""

    mode: str  # offline | online
    project: str
    entity: str | None  # a server has told it; offline nobody needs it
    folder: Path  # W&B writes below <folder>/wandb; online that is scratch, offline it is the result
    finish_s: float = 0.0  # bounds the last rows of one run (TimeoutError); 0: the process as a whole is bounded


class WandbProject:
    """Projects a study's trials to W&B, any number of them at a time; an error of wandb is the caller's to catch."""

    name = "W&B"

    def __init__(self, study: Path, label: StudyLabel, place: Place) -> None:
        import wandb

        self.wandb = wandb
        self.study, self.label, self.place = study, label, place
        self.count = 0  # runs finished
        self.whole: set[str] = set()  # trials with a run that ended as it should
        self._open: dict[str, tuple[wandb.Run, TrialPlan]] = {}
        self._finishing: list[Future[None]] = []
        self._pool = ThreadPoolExecutor(FINISHING_AT_ONCE, "wandb-finish")
        # One object for every run: wandb copies it, and making it takes a third of opening a run.
        self._settings = run_settings(finish_timeout=place.finish_s, finish_timeout_raises=True)

    def warm_up(self) -> None:
        """Start wandb-core and import what the first run would: no trial trains yet. Whatever fails here is told by
        the first run."""
        with suppress(Exception):
            importlib.import_module("wandb.sdk.launch")
            self.wandb.setup().ensure_service()

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
        if success:
            self.whole.add(trial)
        self._finishing.append(self._pool.submit(self._finish, run, dict(summary), success))

    def close(self) -> None:
        """Wait until every finished run is whole; runs still open are closed as failed."""
        for trial in list(self._open):
            self.finish(trial, {"outcome": "unfinished"}, success=False)
        self._pool.shutdown(wait=True)
        self._raise_what_failed()

    def log_table(self, run_id: str, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A run of job type report with one table, which the charts of a report draw from; an earlier one under the
        same id is replaced."""
        run = self._init("report", run_id, "report", [])
        run.log({name: self.wandb.Table(columns=list(columns), data=[list(row) for row in rows])})
        run.finish()

    def _init(self, job_type: str, run_id: str, name: str, tags: Sequence[str]) -> Any:
        return self.wandb.init(
            entity=self.place.entity,
            project=self.place.project,
            group=self.label.group,
            job_type=job_type,
            id=run_id,
            name=name[:128],
            tags=list(tags),
            dir=str(self.place.folder),
            reinit="create_new",  # many runs at a time in this process, none of them global
            resume="allow" if self.place.mode == "online" else None,
            settings=self._settings,
        )

    def address(self) -> str | None:
        """Where the study's runs are to be seen; None offline."""
        if self.place.mode != "online":
            return None
        base = str(self.wandb.setup().settings.app_url)
        return f"{base}/{self.place.entity}/{self.place.project}/groups/{self.label.group}"

    def _finish(self, run: Any, summary: dict[str, Any], success: bool) -> None:
        run.summary.update(summary)
        folder = Path(run.dir).parent.name
        run.finish(exit_code=0 if success else 1)
        self.count += 1
        if self.place.mode == "offline":
            whole = {"id": run.id, "folder": folder, "rows": summary.get("journal_rows", 0), "at": time.time()}
            append_lines(self.study / "wandb" / LEDGER, [{**whole, "outcome": summary["outcome"]}])

    def _raise_what_failed(self) -> None:
        done = [future for future in self._finishing if future.done()]
        self._finishing = [future for future in self._finishing if future not in done]
        for future in done:
            future.result()
