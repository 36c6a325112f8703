"""The driver's side of tracking: a listener that passes events to the tracking process (process.py).

One bounded queue, one thread that writes it to the process, one that reads its answers. No call of the launcher blocks
or raises here, and `harness track STUDY` later sends what W&B missed from the journals (P23).
"""

import json
import os
import queue
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from harness.plan.counted import count
from harness.plan.tracking import Tracking
from harness.plan.trial import PlannedTrial
from harness.record.files import open_in_place
from harness.record.scratch import make_scratch
from harness.record.tracking.settings import PACKAGE, SCRATCH, decide

GATHER_S = 10.0  # events are collected for this long, so that tracking rarely wakes up and interrupts trials
GATHER_EVENTS = 1_000
QUEUE_EVENTS = 10_000  # a tracking process that is this far behind will not catch up
OWN_SHARE = 0.75  # share of finish_s for tracking itself; the rest is for ending it and the command
LAST_SHARE = 0.2  # share of finish_s that it gets at the end in any case, as a timing pass may use all processors
FINISH_OFFLINE_S = 120.0  # limit for completing offline runs after a whole sweep; it takes seconds, and asks no server
JOIN_S = 0.2  # time for a thread to end once its process has
SECRETS = ("WANDB_API_KEY", "WANDB_SERVICE")


class WandbSink:
    """Tracks one sweep. `WandbSink.prepare` before the study is opened, `open` after, `close` at the end."""

    def __init__(self, tracking: Tracking, mode: str, entity: str | None, say: Callable[[str], None]) -> None:
        self.tracking = tracking
        self.mode = mode
        self.entity = entity
        self.say = say
        self.missing = False  # some event did not get through
        self._why = ""  # it did not
        self._broken = False  # the tracking process no longer receives events
        self._queue: queue.Queue[Mapping[str, Any] | None] = queue.Queue(QUEUE_EVENTS)
        self._process: subprocess.Popen[str] | None = None
        self._over_at: float | None = None  # when the last trial ended
        self._complete = False  # whether every run is
        self._done: dict[str, Any] | None = None
        self._threads: list[threading.Thread] = []
        self._hidden: dict[str, str] = {}

    @staticmethod
    def prepare(tracking: Tracking, say: Callable[[str], None]) -> "WandbSink":
        """Decide the mode; UserError if tracking=online is not possible. auto is decided while the sweep starts."""
        if tracking.mode == "auto":
            return WandbSink(tracking, "auto", tracking.entity, say)
        decision = decide(tracking.mode)
        return WandbSink(tracking, decision.mode, tracking.entity or decision.entity, say)

    def open(self, study: Path) -> None:
        """Start the tracking process for an existing study folder, and remove the key from our own environment, so that
        what is started from here on (Ray, workers) does not inherit it."""
        if self.mode == "disabled" and not self.tracking.tensorboard:
            return
        self.study = study
        (study / "wandb").mkdir(exist_ok=True)
        self._process = self._start("process")
        self._hidden = {key: os.environ.pop(key) for key in SECRETS if key in os.environ}
        self._scratch = str(make_scratch(SCRATCH, self._process.pid))
        order = {"mode": self.mode, "tensorboard": self.tracking.tensorboard}
        order |= {**self._destination(), "finish_s": OWN_SHARE * self.tracking.finish_s}
        for work, arguments in ((self._write, [order]), (self._read, [])):
            thread = threading.Thread(target=work, args=arguments, name=f"tracking{work.__name__}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _start(self, module: str) -> "subprocess.Popen[str]":
        """Start a module of this package as a process, which logs to the study's tracking.log."""
        path = os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        with open(open_in_place(self.study / "wandb" / "tracking.log", os.O_APPEND), "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", f"harness.record.tracking.{module}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PYTHONPATH": path},
                process_group=0,  # Ctrl-C is for the driver. Not a session: see process.lower_session_priority
            )

    def _destination(self) -> dict[str, Any]:
        place = {"study": str(self.study), "scratch": self._scratch}
        return {**place, "project": self.tracking.project, "entity": self.entity}

    # -- the launcher's calls ----------------------------------------------------------------------------------------

    def trial_started(self, planned: PlannedTrial) -> None:
        """Does nothing: a run opens with the trial's first rows, which name the attempt."""

    def trial_rows(self, planned: PlannedTrial, rows: Sequence[dict[str, Any]]) -> None:
        self._put({"event": "rows", "trial": planned.key, "rows": rows})

    def trial_failed(self, planned: PlannedTrial, reason: str, final: bool) -> None:
        # Without the reason, which may contain paths.
        self._put({"event": "failed", "trial": planned.key, "final": final})

    def trials_over(self) -> None:
        self._over_at = time.monotonic()
        self._put({"event": "over"})

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self, document: Mapping[str, Any] | None = None) -> None:
        """Let the tracking process finish, then end it; print where the runs are. Safe to call again.

        `finish_s` begins when the last trial has ended, as W&B is served during the timing pass and the report. If
        every run is complete by now, what is left (the W&B report) gets all of it.
        """
        process, self._process = self._process, None
        if process is None:
            return
        now, finish_s = time.monotonic(), self.tracking.finish_s
        until = now + finish_s
        if self._over_at is not None and not self._complete:
            until = max(self._over_at + OWN_SHARE * finish_s, now + LAST_SHARE * finish_s)
        if document is not None:
            self._put({"event": "report", "document": document})
        self._put(None)
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.missing = True
            _kill(process)
        for thread in self._threads:
            thread.join(JOIN_S)
        is_whole = self._done is not None and not self.missing and not self._done.get("lacking")
        if self.mode in ("offline", "auto") and self._over_at is not None and not is_whole:
            # A sweep that was stopped early has to end in time, and its next start completes the runs.
            self._finish_offline(FINISH_OFFLINE_S if document is not None else finish_s)
        shutil.rmtree(self._scratch, ignore_errors=True)  # the process has done so, unless it had to be killed
        os.environ.update(self._hidden)
        self._say_where_runs_are()

    def _finish_offline(self, limit_s: float) -> None:
        """Complete offline runs from the journals at normal priority, now that no trial is disturbed by it."""
        process = self._start("finish_offline")
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch = str(make_scratch(SCRATCH, process.pid))
        try:
            answers, _ = process.communicate(json.dumps(self._destination()) + "\n", limit_s)
        except subprocess.TimeoutExpired:
            _kill(process)
            return
        except BaseException:  # Ctrl-C
            _kill(process)
            raise
        for answer in _parsed(answers.splitlines()):
            self._why = answer.get("lost", self._why)
            if "done" in answer:
                self._done, self.missing = answer["done"], False

    def _say_where_runs_are(self) -> None:
        command = f"harness track {shlex.quote(str(self.study))}"
        done = self._done
        if done is None or self.missing:
            if self.mode != "disabled":
                why = f" ({self._why})" if self._why else ""
                self.say(f"W&B did not receive everything{why}; to send the rest from the journals: {command}")
        elif done.get("mode") == "offline":
            runs = count(done["runs"], "run")
            self.say(f"W&B: {runs} offline in {self.study / 'wandb'}; to upload: {command} --mode online")
        elif done.get("mode") == "online":
            self.say(f"W&B: {count(done['runs'], 'run')} at {done['url']}")
            if "report" in done:
                self.say(f"W&B report: {done['report']}")
            elif "no_report" in done:
                self.say(f"W&B report not published ({done['no_report']}); to publish it later: {command}")
        if done is not None and done.get("lacking"):
            self.say(f"W&B lacks {count(done['lacking'], 'trial')} that other drivers ran; to add them: {command}")

    # -- threads -----------------------------------------------------------------------------------------------------

    def _put(self, event: dict[str, Any] | None) -> None:
        if self._broken and event is not None:
            return
        try:
            self._queue.put_nowait(event)
        except queue.Full:
            self._broken = True
            self._lose("it cannot keep up with the sweep")

    def _write(self, order: Mapping[str, Any]) -> None:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        try:
            events: list[Mapping[str, Any] | None] = [order]
            while True:
                process.stdin.write("".join(json.dumps(event) + "\n" for event in events if event is not None))
                process.stdin.flush()
                if events[-1] is None:
                    break
                events = self._gathered()
            process.stdin.close()
        except (OSError, ValueError):
            self._broken = True
            self._lose("its process ended")

    def _gathered(self) -> list[Mapping[str, Any] | None]:
        """The next event and those within GATHER_S after it, in order; at once when no trial is left to disturb."""
        events = [self._queue.get()]
        until = time.monotonic() + GATHER_S
        while self._over_at is None and events[-1] is not None and len(events) < GATHER_EVENTS:
            try:
                events.append(self._queue.get(timeout=max(0.0, until - time.monotonic())))
            except queue.Empty:
                break
        return events

    def _read(self) -> None:
        process = self._process
        assert process is not None
        assert process.stdout is not None
        for answer in _parsed(process.stdout):
            if "mode" in answer:
                self.mode = answer["mode"]
            if "say" in answer:
                self.say(answer["say"])
            if "lost" in answer:
                self._lose(answer["lost"])
            if "whole" in answer:
                self._complete = True
            if "done" in answer:
                self._done = answer["done"]
                return

    def _lose(self, why: str) -> None:
        """Warn once, whatever follows; the sweep continues. Offline runs need no warning: `close` completes them."""
        if self.missing:
            return
        self.missing = True
        if self.mode == "offline" and not self.tracking.tensorboard:
            self._why = why
        else:
            self.say(f"tracking stopped: {why}; the journals are complete")


def _parsed(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The answers among a process's lines; a library may have printed others."""
    for line in lines:
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def _kill(process: "subprocess.Popen[str]") -> None:
    """Kill the tracking process and wandb-core, which has its own session."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    process.kill()
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()
