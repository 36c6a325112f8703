"""The launcher without Ray: one trial after another with the same trainer, for debugging, tests and small machines."""

import os
import time
import traceback
from dataclasses import replace
from pathlib import Path

from harness.launch.causes import cause
from harness.launch.drain import Drain
from harness.launch.feed import LOOK_EVERY_S, Feed
from harness.launch.gang import Gang, InProcessGang, ProcessGang
from harness.launch.listener import Listener
from harness.launch.tasks import Cluster, task_of, write_failure
from harness.plan.trial import PlannedTrial
from harness.record.files import open_in_place


class InlineGangs:
    """At most one warm gang per world size and device."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._gangs: dict[tuple[int, str], Gang] = {}

    def of(self, world_size: int, device: str | None = None) -> Gang:
        device, threads = device or self.cluster.device, self.cluster.cpus_per_worker
        if (world_size, device) not in self._gangs:
            gang = InProcessGang(device, threads) if world_size == 1 else ProcessGang(world_size, device, threads)
            self._gangs[world_size, device] = gang
        return self._gangs[world_size, device]

    def drop(self, world_size: int, device: str | None = None) -> None:
        """A gang that failed is never used again (P21)."""
        gang = self._gangs.pop((world_size, device or self.cluster.device), None)
        if gang is not None:
            gang.close()

    def close(self) -> None:
        for world_size, device in list(self._gangs):
            self.drop(world_size, device)


def run_inline(feed: Feed, study: Path, cluster: Cluster, listener: Listener, gangs: InlineGangs, drain: Drain) -> None:
    """Run the feed to its end, or until a drain has stopped the running trial."""
    while not drain.requested:
        if (planned := feed.take()) is None:
            if feed.is_done:
                return
            time.sleep(LOOK_EVERY_S)
            continue
        for failures in range(cluster.max_failures + 1):
            listener.trial_started(planned)
            try:
                if not _run_one(planned, study, cluster, listener, gangs, feed.races(planned)):
                    feed.put_back(planned.key)
                    return
                break
            except (Exception, SystemExit):  # a model may call sys.exit
                reason, final = cause(traceback.format_exc()), failures == cluster.max_failures
                gangs.drop(planned.topology.batch.world_size)
                log_file = open_in_place(study / "trials" / planned.key / "log.txt", os.O_APPEND)
                with open(log_file, "a", encoding="utf-8") as log:
                    log.write(traceback.format_exc())
                if final:
                    write_failure(study, planned.key, reason)
                listener.trial_failed(planned, reason, final)
        feed.end(planned.key)


def _run_one(
    planned: PlannedTrial, study: Path, cluster: Cluster, listener: Listener, gangs: InlineGangs, races: bool
) -> bool:
    """Run one trial; returns whether it has ended, False if it was stopped on request."""
    world_size, execution = planned.topology.batch.world_size, cluster.execution
    if world_size == 1:
        execution = replace(execution, hang_s=0.0)  # the worker is the driver, which must not end itself
    gang = gangs.of(world_size)
    gang.start(task_of(planned, study, execution, races))
    while rows := gang.advance(cluster.report_every_s):
        listener.trial_rows(planned, rows)
        if rows[-1]["kind"] in ("end", "drain"):
            return rows[-1]["kind"] == "end"
    raise AssertionError("a trial's last row is `end` or `drain`")
