"""The tracking process: hears a sweep's events as JSON lines on its input, shows them in W&B and TensorBoard.

A process of its own, because nothing wandb does (importing, stalling, its farewells at exit) may cost a trial or the
driver anything. It answers with JSON lines on its output: {"say": TEXT} for the screen, {"lost": TEXT} where a
projection is given up, {"whole": true} once every run is, {"done": {...}} at the end.
"""

import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import psutil

from harness.plan.errors import one_line
from harness.record.study import StudyFolder
from harness.record.tracking.runs import (
    TrialPlan,
    is_success,
    kept_rows,
    record_of,
    study_label,
    summary_of,
    trial_plans,
)
from harness.record.tracking.settings import decide, environment

NICENESS = 19  # trials come first
GAVE_UP = 3  # exit code of a process that ran out of time


class Projection(Protocol):
    """Where trials are shown. Any exception ends the projection and nothing else."""

    @property
    def name(self) -> str: ...

    def open(self, plan: TrialPlan, attempt: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """A trial's attempt begins behind `rows`, which an earlier attempt made."""
        ...

    def log(self, trial: str, rows: Sequence[Mapping[str, Any]]) -> None: ...

    def finish(self, trial: str, summary: Mapping[str, Any], success: bool) -> None: ...

    def close(self) -> None:
        """Make everything whole; may block."""
        ...


class Trials:
    """Follows every trial from its `ready` row to its end, and keeps its rows for the summary."""

    def __init__(self, folder: StudyFolder, projections: list[Projection]) -> None:
        self.folder = folder
        self.projections = projections
        self._plans: dict[str, TrialPlan] = {}
        self._running: dict[str, tuple[TrialPlan, int, list[dict[str, Any]]]] = {}  # plan, attempt, rows

    def rows(self, trial: str, rows: Sequence[dict[str, Any]]) -> None:
        """Rows of one trial as its trainer yielded them."""
        if rows and rows[0]["kind"] == "ready":
            self._ready(trial, rows[0])
        fresh = [row for row in rows if row["kind"] == "evaluation"]
        if fresh:
            self._running[trial][2].extend(fresh)
            self._tell("log", trial, fresh)
        if rows and rows[-1]["kind"] == "end":
            plan, attempt, known = self._running[trial]
            self._finish(trial, record_of(plan.settings, known, rows[-1], attempt))

    def failed(self, trial: str, final: bool) -> None:
        """The attempt is over without a result; a retry opens a run of its own with the rows it keeps."""
        if trial in self._running:
            self._finish(trial, {"outcome": "failed"} if final else {})

    def close(self) -> None:
        """The sweep is over, or its driver is gone: what is still open stays without an outcome."""
        for trial in list(self._running):
            self._finish(trial, {})
        self._tell("close")

    def _ready(self, trial: str, row: Mapping[str, Any]) -> None:
        self.failed(trial, final=False)
        if trial not in self._plans:
            self._plans = trial_plans(self.folder)  # the first trial, or a sequential experiment has planned more
        plan = self._plans[trial]
        kept = kept_rows(self.folder.record(plan.planned), row["step"]) if row["step"] else []
        self._running[trial] = plan, row["attempt"], kept
        self._tell("open", plan, row["attempt"], tuple(kept))

    def _finish(self, trial: str, record: Mapping[str, Any]) -> None:
        plan, _, rows = self._running.pop(trial)
        self._tell("finish", trial, summary_of(plan.settings, rows, record), is_success(record))

    def _tell(self, method: str, *arguments: Any) -> None:
        for projection in list(self.projections):
            try:
                getattr(projection, method)(*arguments)
            except Exception as error:
                self.projections.remove(projection)
                answer({"lost": f"{projection.name}: {one_line(error)}"})


def serve(order: Mapping[str, Any], lines: Iterator[str]) -> None:
    """Hear one sweep to its end; `order` says what is wanted and where."""
    folder, scratch = StudyFolder(Path(order["study"])), Path(order["scratch"])
    projections = _projections(order, folder, scratch)
    trials = Trials(folder, projections)
    pool, ending = ThreadPoolExecutor(1, "ending"), None
    document: dict[str, Any] | None = None
    # wandb-core puts itself into a session of its own.
    stand_back_by_session(child.pid for child in psutil.Process().children())
    for line in lines:
        event = json.loads(line)
        if event["event"] == "rows":
            trials.rows(event["trial"], event["rows"])
        elif event["event"] == "failed":
            trials.failed(event["trial"], event["final"])
        elif event["event"] == "over":
            ending = pool.submit(_end, trials)  # beside the driver's timing pass and report
        elif event["event"] == "report":
            document = event["document"]
    patience = threading.Timer(order["finish_s"], leave, [GAVE_UP, scratch])
    patience.daemon = True
    patience.start()
    (ending or pool.submit(_end, trials)).result()  # none began where the driver was stopped, or is gone
    answer({"done": _farewell(folder, projections, document)})


def _end(trials: Trials) -> None:
    trials.close()
    answer({"whole": True})


def _projections(order: Mapping[str, Any], folder: StudyFolder, scratch: Path) -> list[Projection]:
    projections: list[Projection] = []
    mode, entity = order["mode"], order["entity"]
    if mode == "auto":
        found = decide("auto")
        mode, entity = found.mode, entity or found.entity
        if found.why:
            answer({"say": f"W&B offline: {found.why}"})
    if mode != "disabled":
        wanted = environment(mode, scratch, os.environ)
        os.environ.clear()
        os.environ.update(wanted)
        from harness.record.tracking.project import Place, WandbProject

        place = Place(mode, order["project"], entity, scratch if mode == "online" else folder.path)
        project = WandbProject(folder.path, study_label(folder), place)
        project.warm_up()
        projections.append(project)
    if order["tensorboard"]:
        from harness.record.tracking.tensorboard import TensorBoardFiles

        projections.append(TensorBoardFiles(folder.path))
    return projections


def _farewell(folder: StudyFolder, projections: list[Projection], document: dict[str, Any] | None) -> dict[str, Any]:
    """What came of W&B: mode, runs and addresses; the report is published where there is one."""
    from harness.record.tracking.project import WandbProject
    from harness.record.tracking.upload import lacking

    project = next((p for p in projections if isinstance(p, WandbProject)), None)
    if project is None:
        return {}
    said: dict[str, Any] = {"mode": project.place.mode, "runs": project.count, "url": project.address()}
    if document is not None and project.place.mode == "online":
        from harness.record.tracking.publish import publish

        try:
            said["report"] = publish(project, document)
        except Exception as error:
            said["no_report"] = one_line(error)
    if len(project.whole) < len(trial_plans(folder)):  # an earlier driver's, or another's of a study that is shared
        with suppress(Exception):  # of wandb's: then nobody knows
            said["lacking"] = len(lacking(folder, project))
    project.wandb.teardown()
    return said


def answer(message: Mapping[str, Any]) -> None:
    """One line for the driver, if it still listens."""
    try:
        print(json.dumps(message), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def stand_back() -> None:
    """Leave the processors to trials, as far as they want them; what this process starts inherits it."""
    os.nice(NICENESS)
    with suppress(AttributeError, OSError):  # Linux: a trial that wakes up takes the processor at once
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def stand_back_by_session(processes: Iterable[int]) -> None:
    """The same for processes in sessions of their own: Linux may share the processors out by session first, and all
    else counts within one only (autogroup, see sched(7))."""
    for process in processes:
        with suppress(OSError):
            Path(f"/proc/{process}/autogroup").write_text(str(NICENESS))


def leave(code: int, scratch: Path) -> None:
    """End this process and wandb-core at once, whatever either still waits for."""
    for child in psutil.Process().children(recursive=True):
        child.kill()
    shutil.rmtree(scratch, ignore_errors=True)
    os._exit(code)


if __name__ == "__main__":
    # The driver decides when tracking is over, whoever else is told to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    stand_back()
    first = json.loads(sys.stdin.readline())
    try:
        serve(first, iter(sys.stdin.readline, ""))
    except Exception as error:
        answer({"lost": f"tracking: {one_line(error)}"})
    leave(0, Path(first["scratch"]))
