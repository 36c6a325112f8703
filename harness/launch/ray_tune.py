"""The launcher through Ray Tune: one Tuner per invocation, with our own searcher, scheduler and callback."""

import json
import logging
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from harness.launch.causes import cause
from harness.launch.drain import Drain
from harness.launch.feed import Feed
from harness.launch.listener import Watcher
from harness.launch.node_watch import NodeWatch
from harness.launch.preflight import becomes_visible
from harness.launch.stall_watch import StallWatch
from harness.launch.tasks import Cluster, task_of, write_failure
from harness.launch.trainable import TrialTrainable
from harness.plan.trial import PlannedTrial

T = TypeVar("T")


class _NotInSnapshots:
    """Tune pickles searcher and callbacks into snapshots that we never read, so we put nothing into them."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class FeedSearcher(_NotInSnapshots, Searcher):
    """Gives Tune the feed's next trial, as one JSON text."""

    def __init__(self, feed: Feed, study: Path, cluster: Cluster, drain: Drain, environment: str) -> None:
        super().__init__()
        self.feed = feed
        self.drain = drain
        self.study = study
        self.cluster = cluster
        self.environment = environment  # key of the variables that workers fetch
        self.of_tune_id: dict[str, PlannedTrial] = {}
        self.lacks_capacity = False  # Tune is being stopped: trials that it ends now are not over
        self.unwritable: OSError | None = (
            None  # the study folder; kept for the driver, as Tune wraps what is raised here
        )

    def suggest(self, trial_id: str) -> Any:  # dict, None or Searcher.FINISHED, which is a str
        if self.drain.requested or self.unwritable:
            return Searcher.FINISHED
        planned = self._written(self.feed.take)
        if planned is None:
            return Searcher.FINISHED if self.feed.is_done else None
        self.of_tune_id[trial_id] = planned
        task = task_of(planned, self.study, self.cluster.execution, self.feed.races(planned))
        order = {
            **task.to_json(),
            "folder": task.folder,
            "execution": asdict(task.execution),
            "device": self.cluster.device,
            "cpus": self.cluster.cpus_per_worker,
            "gpus": self.cluster.gpus_per_worker,
            "bundle": self.cluster.bundle,
            "report_every_s": self.cluster.report_every_s,
            "environment": self.environment,
        }
        return {"task": json.dumps(order)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        key = self.of_tune_id[trial_id].key
        if _last_kind(result) == "drain" or (error and self.drain.requested) or (self.lacks_capacity and not error):
            self._written(lambda: self.feed.put_back(key))
        else:
            if _last_kind(result) == "end":
                becomes_visible(self.study / "trials" / key / "record.json")  # a network file system may show it late
            self._written(lambda: self.feed.end(key))

    def _written(self, step: Callable[[], T]) -> T | None:
        """The result of a step of the feed, which may write a longer plan; None if the study cannot be written."""
        try:
            return step()
        except OSError as error:
            self.unwritable = error
            return None

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: a study resumes from its records, never from Tune's snapshot."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("run the same command again to resume a study")


def _last_kind(result: Mapping[str, Any] | None) -> str:
    """The kind of the last row in a trial's last report; empty if there is none."""
    rows = json.loads((result or {}).get("rows", "[]"))
    return rows[-1]["kind"] if rows else ""


class NextInLine(_NotInSnapshots, FIFOScheduler):
    """Gives a worker that has become free to the first trial for which none is starting.

    Tune has requested workers for all waiting trials, in order. The trial chosen here gets the free worker, and its own
    request is dropped: if that were for a worker already starting, trials shorter than a worker's start would leave
    most of the cluster idle (benchmarks/scheduling.py).
    """

    def __init__(self, workers_of: Callable[[str], int], workers: int) -> None:
        super().__init__()
        self.workers_of = workers_of  # Tune's trial id -> world size
        self.workers = workers  # how many fit on the cluster
        self._queue: list[TuneTrial] = []

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        self._queue = [other for other in self._queue if other is not trial and not other.is_finished()] + [trial]

    def choose_trial_to_run(self, tune_controller: Any) -> TuneTrial | None:
        waiting = [trial for trial in self._queue if trial.status == TuneTrial.PENDING]
        running = [trial for trial in self._queue if trial.status == TuneTrial.RUNNING]
        free = self.workers - sum(self.workers_of(trial.trial_id) for trial in running)
        for trial in waiting if running else ():
            free -= self.workers_of(trial.trial_id)
            if free < 0:
                return trial
        return waiting[0] if waiting else None


class TuneCallback(_NotInSnapshots, tune.Callback, tune.Stopper):
    """Passes what Tune reports to the listener, and stops Tune when there is nothing left to wait for."""

    def __init__(
        self, searcher: FeedSearcher, watcher: Watcher, study: Path, drain: Drain, nodes: NodeWatch, stalls: StallWatch
    ) -> None:
        self.searcher = searcher
        self.watcher = watcher
        self.study = study
        self.drain = drain
        self.nodes = nodes
        self.stalls = stalls
        self.live: dict[str, TuneTrial] = {}  # trials that are training, by Tune's id
        self.killed: dict[str, str] = {}  # by Tune's id: why we killed its process
        self.announced = False

    def on_step_begin(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        if iteration == 0:
            self.drain.listen()  # Tune has just installed its own handler for SIGUSR1
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        if self.drain.requested and not self.announced:
            self.announced = True
            self.watcher.say(self.drain.notice)
        stalled = {*self.stalls.stalled()}
        for trial_id, trial in self.live.items():
            actor = trial.temporary_state.ray_actor
            if self.searcher.of_tune_id[trial_id].key in stalled and actor is not None and trial_id not in self.killed:
                self.killed[trial_id] = f"no progress for {self.stalls.limit_s:.0f} s (cluster.hang_s)"
                ray.kill(actor)  # works on a stopped process too; its gang ends with it

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if self.searcher.unwritable:
            return True
        if self.drain.requested:
            return not self.live or self.drain.expired
        # While any trial is training, the others may be waiting for its workers.
        running = self.searcher.feed.running
        self.searcher.lacks_capacity = self.nodes.lacks_capacity(lambda: [] if self.live else list(running.values()))
        return self.searcher.lacks_capacity

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        planned = self.searcher.of_tune_id[trial.trial_id]
        self.live[trial.trial_id] = trial
        self.stalls.begin(planned.key)
        self.watcher.trial_started(planned)

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        rows = json.loads(result.get("rows", "[]"))
        if rows and rows[-1]["kind"] in ("end", "drain"):
            self._left(trial)
        self.watcher.trial_rows(self.searcher.of_tune_id[trial.trial_id], rows)

    def on_trial_recover(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._failed(trial, final=False)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._failed(trial, final=True)

    def _left(self, trial: TuneTrial) -> None:
        """The trial is no longer training."""
        self.live.pop(trial.trial_id, None)
        self.stalls.end(self.searcher.of_tune_id[trial.trial_id].key)

    def _failed(self, trial: TuneTrial, final: bool) -> None:
        self._left(trial)
        planned = self.searcher.of_tune_id[trial.trial_id]
        # Not Tune's own `get_error`, which reads a copy that does not exist yet.
        reason = self.killed.pop(trial.trial_id, None) or cause(
            Path(trial.error_file).read_text(encoding="utf-8", errors="replace") if trial.error_file else ""
        )
        if final and not self.drain.requested:  # the signal may have hit the trial's own processes too
            try:
                write_failure(self.study, planned.key, reason)
            except OSError as error:  # the disk is full or gone: running trials could not be written either
                self.searcher.unwritable = error
        self.watcher.trial_failed(planned, reason, final)


def run_ray(
    feed: Feed,
    study: Path,
    cluster: Cluster,
    watcher: Watcher,
    scratch: Path,
    slots: int,
    drain: Drain,
    environment: str = "",
) -> None:
    """Run the feed to its end, or until a drain has stopped it; `slots` trials fit at once. `environment`: key of the
    shared variables that workers fetch."""
    # Enough waiting trials to keep every slot busy, few enough that the longest-first order has an effect.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(max(2, 2 * slots))
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # we report failed trials ourselves
    searcher = FeedSearcher(feed, study, cluster, drain, environment)
    workers = slots * min((planned.topology.batch.world_size for planned in feed.waiting), default=1)
    nodes, stalls = NodeWatch(cluster, watcher.say), StallWatch(study, cluster.execution)
    events = TuneCallback(searcher, watcher, study, drain, nodes, stalls)
    tuner = tune.Tuner(
        TrialTrainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=NextInLine(lambda trial_id: searcher.of_tune_id[trial_id].topology.batch.world_size, workers),
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(scratch / "tune"),
            verbose=0,
            callbacks=[events],
            stop=events,
            failure_config=tune.FailureConfig(max_failures=cluster.max_failures),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            log_to_file=False,
        ),
    )
    # Tune takes over SIGUSR1 before its first step, where `events` restores our handler: until then it is blocked.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        tuner.fit()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
    drain.listen()
    if searcher.unwritable:
        raise searcher.unwritable
