"""The driver's side of tracking: a listener that hands what it hears to the tracking process (process.py).

One bounded queue, one thread that writes it to the process, one that reads its answers. No call of the launcher blocks
or raises here, and what W&B misses, `harness track STUDY` sends later from the journals (P23).
"""

import json
import os
import queue
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from harness.plan.tracking import Tracking
from harness.plan.trial import PlannedTrial
from harness.record.tracking.settings import PACKAGE, decide

GATHER_S = 10.0  # events wait for more: tracking then wakes up seldom, and does not cut into trials at every report
GATHER_EVENTS = 1_000
QUEUE_EVENTS = 10_000  # reports of trials; a tracking process this far behind will not catch up
OWN_SHARE = 0.75  # of finish_s that tracking gets; the rest is for ending it and the command
LAST_SHARE = 0.2  # of finish_s that it gets at the end of the command in any case: a timing pass may use all processors
JOIN_S = 0.2  # for a thread whose process has ended
SECRETS = ("WANDB_API_KEY", "WANDB_SERVICE")


class WandbSink:
    """Tracks one sweep. `WandbSink.prepare` before the study is opened, `open` after, `close` at the end."""

    def __init__(self, tracking: Tracking, mode: str, entity: str | None, say: Callable[[str], None]) -> None:
        self.tracking = tracking
        self.mode = mode
        self.entity = entity
        self.say = say
        self.missing = False  # something heard did not get through
        self._broken = False  # nobody hears us any more
        self._queue: queue.Queue[Mapping[str, Any] | None] = queue.Queue(QUEUE_EVENTS)
        self._process: subprocess.Popen[str] | None = None
        self._over_at: float | None = None  # when the last trial had ended
        self._whole = False  # every run is
        self._done: dict[str, Any] | None = None
        self._threads: list[threading.Thread] = []
        self._hidden: dict[str, str] = {}

    @staticmethod
    def prepare(tracking: Tracking, say: Callable[[str], None]) -> "WandbSink":
        """Decide the mode; UserError where tracking=online cannot be had. auto decides while the sweep starts."""
        if tracking.mode == "auto":
            return WandbSink(tracking, "auto", tracking.entity, say)
        found = decide(tracking.mode)
        return WandbSink(tracking, found.mode, tracking.entity or found.entity, say)

    def open(self, study: Path) -> None:
        """Start the tracking process for a study folder that exists, and take the key out of our own environment:
        what is started from here on (Ray, workers) does not inherit it."""
        if self.mode == "disabled" and not self.tracking.tensorboard:
            return
        self.study = study
        (study / "wandb").mkdir(exist_ok=True)
        path = os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        with open(study / "wandb" / "tracking.log", "a", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "harness.record.tracking.process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PYTHONPATH": path},
                process_group=0,  # Ctrl-C is for the driver. Not a session: see process.stand_back
            )
        self._hidden = {key: os.environ.pop(key) for key in SECRETS if key in os.environ}
        self._scratch = tempfile.mkdtemp(prefix="harness-wandb-")
        order = {
            "study": str(study),
            "scratch": self._scratch,
            "mode": self.mode,
            "project": self.tracking.project,
            "entity": self.entity,
        }
        order |= {"tensorboard": self.tracking.tensorboard, "finish_s": OWN_SHARE * self.tracking.finish_s}
        for work, arguments in ((self._write, [order]), (self._read, [])):
            thread = threading.Thread(target=work, args=arguments, name=f"tracking{work.__name__}", daemon=True)
            thread.start()
            self._threads.append(thread)

    # -- the launcher's calls ----------------------------------------------------------------------------------------

    def trial_started(self, planned: PlannedTrial) -> None:
        """Nothing to show yet: a run opens with the trial's first rows, which name the attempt."""

    def trial_rows(self, planned: PlannedTrial, rows: Sequence[dict[str, Any]]) -> None:
        self._put({"event": "rows", "trial": planned.key, "rows": rows})

    def trial_failed(self, planned: PlannedTrial, reason: str, final: bool) -> None:
        self._put({"event": "failed", "trial": planned.key, "final": final})  # the reason may name paths: it stays here

    def trials_over(self) -> None:
        self._over_at = time.monotonic()
        self._put({"event": "over"})

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self, document: Mapping[str, Any] | None = None) -> None:
        """Let the tracking process finish, then end it; say what is where. Safe to call again.

        `finish_s` begins when the last trial has ended: timing pass and report, if they came in between, took their
        time while W&B was being served. Where every run is whole by now, what is left (the report) has all of it.
        """
        process, self._process = self._process, None
        if process is None:
            return
        now, finish_s = time.monotonic(), self.tracking.finish_s
        until = now + finish_s
        if self._over_at is not None and not self._whole:
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
        shutil.rmtree(self._scratch, ignore_errors=True)  # the process did, unless it had to be killed
        os.environ.update(self._hidden)
        self._say_what_is_where()

    def _say_what_is_where(self) -> None:
        command = f"harness track {shlex.quote(str(self.study))}"
        done = self._done
        if done is None or self.missing:
            if self.mode != "disabled":
                self.say(f"W&B did not get everything; {command} sends the rest from the journals")
        elif done.get("mode") == "offline":
            self.say(f"W&B: {done['runs']} runs offline in {self.study / 'wandb'}; upload: {command} --mode online")
        elif done.get("mode") == "online":
            self.say(f"W&B: {done['runs']} runs at {done['url']}")
            if "report" in done:
                self.say(f"W&B report: {done['report']}")
            elif "no_report" in done:
                self.say(f"W&B report not published ({done['no_report']}); later: {command}")
        if done is not None and done.get("lacking"):
            self.say(f"W&B lacks {done['lacking']} trials that other drivers have run; {command} adds them")

    # -- threads -----------------------------------------------------------------------------------------------------

    def _put(self, event: dict[str, Any] | None) -> None:
        if self._broken and event is not None:
            return
        try:
            self._queue.put_nowait(event)
        except queue.Full:
            self._broken = True
            self._lose("it does not keep up with the sweep")

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
            self._lose("its process has ended")

    def _gathered(self) -> list[Mapping[str, Any] | None]:
        """The next event and what comes within GATHER_S of it, in order; at once where no trial is left to disturb."""
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
        for line in process.stdout:
            try:
                said = json.loads(line)
            except json.JSONDecodeError:
                continue  # something below printed; not ours to show
            if "say" in said:
                self.say(said["say"])
            if "lost" in said:
                self._lose(said["lost"])
            if "whole" in said:
                self._whole = True
            if "done" in said:
                self._done = said["done"]
                return

    def _lose(self, why: str) -> None:
        """One warning, whatever follows; the sweep goes on."""
        if not self.missing:
            self.missing = True
            self.say(f"tracking stopped: {why}; the journals are complete")


def _kill(process: "subprocess.Popen[str]") -> None:
    """The tracking process and wandb-core, which lives in a session of its own."""
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
