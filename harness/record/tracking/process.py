"""The tracking process: receives a sweep's events as JSON lines on its input and shows them in W&B and TensorBoard.

A separate process, because nothing wandb does (importing, stalling, shutting down) may slow down a trial or the driver.
It answers with JSON lines on its output: {"mode": MODE} once `auto` is decided, {"say": TEXT} for the screen,
{"lost": TEXT} when a projection is given up, {"whole": true} once every run is complete, {"done": {...}} at the end.
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
from harness.record.tracking.alerts import last_alert
from harness.record.tracking.runs import (
    TrialPlan,
    is_success,
    kept_rows,
    record_of,
    study_label,
    summary_of,
    trial_plans,
)
from harness.record.tracking.settings import decide, environment, import_wandb

NICENESS = 19  # the lowest priority: trials come first
GAVE_UP = 3  # exit code of a process that ran out of time


class Projection(Protocol):
    """A place where trials are shown. An exception ends this projection and nothing else."""

    @property
    def name(self) -> str: ...

    def open(self, plan: TrialPlan, attempt: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """A trial's attempt begins after `rows`, which an earlier attempt made."""
        ...

    def log(self, trial: str, rows: Sequence[Mapping[str, Any]]) -> None: ...

    def finish(self, trial: str, summary: Mapping[str, Any], success: bool) -> None: ...

    def close(self) -> None:
        """Complete everything; may block."""
        ...


class Trials:
    """Follows every trial from its `ready` row to its end, and keeps its rows for the summary."""

    def __init__(self, folder: StudyFolder, projections: list[Projection]) -> None:
        self.folder = folder
        self.projections = projections
        self._plans: dict[str, TrialPlan] = {}
        self._running: dict[str, tuple[TrialPlan, int, list[dict[str, Any]]]] = {}  # plan, attempt, rows

    def rows(self, trial: str, rows: Sequence[dict[str, Any]]) -> None:
        """Pass on rows of one trial as its trainer yielded them."""
        if rows and rows[0]["kind"] == "ready":
            self._ready(trial, rows[0])
        fresh = [row for row in rows if row["kind"] == "evaluation"]
        if fresh:
            self._running[trial][2].extend(fresh)
            self._call_all("log", trial, fresh)
        if rows and rows[-1]["kind"] == "end":
            plan, attempt, all_rows = self._running[trial]
            self._finish(trial, record_of(plan.settings, all_rows, rows[-1], attempt))

    def failed(self, trial: str, final: bool) -> None:
        """The attempt is over without a result; a retry opens its own run with the rows it keeps."""
        if trial in self._running:
            self._finish(trial, {"outcome": "failed"} if final else {})

    def close(self) -> None:
        """The sweep is over, or its driver is gone: runs that are still open get no outcome."""
        for trial in list(self._running):
            self._finish(trial, {})
        self._call_all("close")

    def _ready(self, trial: str, row: Mapping[str, Any]) -> None:
        self.failed(trial, final=False)
        if trial not in self._plans:
            self._plans = trial_plans(self.folder)  # on the first trial, and when an experiment has planned more
        plan = self._plans[trial]
        kept = kept_rows(self.folder.record(plan.planned), row["step"]) if row["step"] else []
        self._running[trial] = plan, row["attempt"], kept
        self._call_all("open", plan, row["attempt"], tuple(kept))

    def _finish(self, trial: str, record: Mapping[str, Any]) -> None:
        plan, _, rows = self._running.pop(trial)
        self._call_all("finish", trial, summary_of(plan.settings, rows, record), is_success(record))

    def _call_all(self, method: str, *arguments: Any) -> None:
        for projection in list(self.projections):
            try:
                getattr(projection, method)(*arguments)
            except Exception as error:
                self.projections.remove(projection)
                answer({"lost": f"{projection.name}: {one_line(error)}"})


def serve(order: Mapping[str, Any], lines: Iterator[str]) -> None:
    """Follow one sweep to its end; `order` says what to track and where."""
    folder, scratch = StudyFolder(Path(order["study"])), Path(order["scratch"])
    projections = _projections(order, folder, scratch)
    trials = Trials(folder, projections)
    pool, ending = ThreadPoolExecutor(1, "ending"), None
    document: dict[str, Any] | None = None
    # wandb-core starts its own session.
    lower_session_priority(child.pid for child in psutil.Process().children())
    for line in lines:
        event = json.loads(line)
        if event["event"] == "rows":
            trials.rows(event["trial"], event["rows"])
        elif event["event"] == "failed":
            trials.failed(event["trial"], event["final"])
        elif event["event"] == "over":
            ending = pool.submit(_end, trials)  # in parallel with the driver's timing pass and report
        elif event["event"] == "report":
            document = event["document"]
    deadline = threading.Timer(order["finish_s"], exit_at_once, [GAVE_UP, scratch])
    deadline.daemon = True
    deadline.start()
    (ending or pool.submit(_end, trials)).result()  # there was no "over" event if the driver was stopped or is gone
    answer({"done": _final_answer(folder, projections, document)})


def _end(trials: Trials) -> None:
    trials.close()
    answer({"whole": True})


def _projections(order: Mapping[str, Any], folder: StudyFolder, scratch: Path) -> list[Projection]:
    projections: list[Projection] = []
    mode, entity = order["mode"], order["entity"]
    if mode == "auto":
        decision = decide("auto")
        mode, entity = decision.mode, entity or decision.entity
        answer({"mode": mode})
        if decision.why:
            answer({"say": f"W&B offline: {decision.why}"})
    if mode != "disabled":
        variables = environment(mode, scratch, os.environ)
        os.environ.clear()
        os.environ.update(variables)
        import_wandb(scratch)
        from harness.record.tracking.project import RunDestination, WandbProject

        destination = RunDestination(mode, order["project"], entity, scratch if mode == "online" else folder.path)
        project = WandbProject(folder.path, study_label(folder), destination, is_live=True)
        project.warm_up()
        projections.append(project)
    if order["tensorboard"]:
        from harness.record.tracking.tensorboard import TensorBoardFiles

        projections.append(TensorBoardFiles(folder.path))
    return projections


def _final_answer(
    folder: StudyFolder, projections: list[Projection], document: dict[str, Any] | None
) -> dict[str, Any]:
    """What is on W&B: mode, runs and addresses; publishes the report if there is one, and sends the last alert."""
    from harness.record.tracking.project import WandbProject
    from harness.record.tracking.upload import lacking

    project = next((p for p in projections if isinstance(p, WandbProject)), None)
    if project is None:
        return {}
    mode = project.destination.mode
    done: dict[str, Any] = {"mode": mode, "runs": project.count, "url": project.address()}
    if mode == "online":
        from harness.record.tracking.publish import log_alert, publish

        try:
            alert = last_alert(folder, document)
            if document is not None:
                done["report"] = publish(project, document, lambda: folder.path, alert)
            else:
                log_alert(project, alert)
        except Exception as error:
            done |= {"no_report": one_line(error)} if document is not None else {}
    if len(project.complete) < len(
        trial_plans(folder)
    ):  # others are an earlier driver's, or another's of a shared study
        with suppress(Exception):  # one of wandb's: then the number is unknown
            done["lacking"] = len(lacking(folder, project))
    project.wandb.teardown()
    return done


def answer(message: Mapping[str, Any]) -> None:
    """Send one line to the driver, if it is still there."""
    try:
        print(json.dumps(message), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def lower_priority() -> None:
    """Give trials the processors first; what this process starts inherits this."""
    os.nice(NICENESS)
    with suppress(AttributeError, OSError):  # Linux: a trial that wakes up takes the processor at once
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def lower_session_priority(processes: Iterable[int]) -> None:
    """The same for processes in their own sessions: Linux may divide the processors among sessions first, and apply
    everything else only within a session (autogroup, see sched(7))."""
    for process in processes:
        with suppress(OSError):
            Path(f"/proc/{process}/autogroup").write_text(str(NICENESS))


def exit_at_once(code: int, scratch: Path) -> None:
    """End this process and wandb-core at once, whatever they are still waiting for."""
    for child in psutil.Process().children(recursive=True):
        child.kill()
    shutil.rmtree(scratch, ignore_errors=True)
    os._exit(code)


if __name__ == "__main__":
    # The driver decides when tracking is over, so signals to the whole process group are ignored.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    lower_priority()
    first = json.loads(sys.stdin.readline())
    try:
        serve(first, iter(sys.stdin.readline, ""))
    except Exception as error:
        answer({"lost": f"tracking: {one_line(error)}"})
    exit_at_once(0, Path(first["scratch"]))
