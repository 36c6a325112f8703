"""Runs a study's trials with the launcher the cluster names, then times its topologies alone on the machine."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Protocol

from harness.launch.capacity import fit
from harness.launch.drain import Drain
from harness.launch.feed import Feed
from harness.launch.gang import Gang
from harness.launch.inline import InlineGangs, run_inline
from harness.launch.listener import Watcher
from harness.launch.tasks import Cluster
from harness.launch.timing_pass import run_timing_pass, untimed
from harness.plan.trial import PlannedTrial
from harness.record.study import Study


def run_study(
    study: Study, feed: Feed, cluster: Cluster, watcher: Watcher, timing: tuple[int, float], drain: Drain
) -> None:
    """Run everything the feed has to give; it is over afterwards unless the run was interrupted."""
    plan = feed.plan
    world_sizes = {planned.topology.batch.world_size for planned in plan()}
    with ExitStack() as stack:
        stack.enter_context(drain.of_study(study.lease.folder, study.lease.number, cluster.grace_s))
        if cluster.launcher == "inline":
            gangs = InlineGangs(cluster)
            stack.callback(gangs.close)
            watcher.sweep_started(feed, 1)
            run_inline(feed, study.path, cluster, watcher, gangs, drain)
            if feed.is_over and study.leads:
                _time(study, plan(), cluster, watcher, gangs.of, timing, drain)
            return
        if feed.is_over and not (study.leads and untimed(plan(), {row["key"] for row in study.timings()})):
            watcher.sweep_started(feed, 1)
            return  # nothing to run: Ray need not start
        from harness.launch.ray_cluster import open_door, ray_cluster
        from harness.launch.ray_probe import node_resources

        scratch = stack.enter_context(ray_cluster(cluster))
        drain.listen()
        if warning := open_door(cluster.address):
            watcher.say(warning)
        # Only now: Ray reads its environment when it is first imported.
        from harness.launch.preflight import check_nodes
        from harness.launch.ray_gang import ExclusiveGangs

        slots = fit(cluster, world_sizes, node_resources())
        if cluster.address != "local":  # an embedded cluster is this machine and this Python
            check_nodes(study, cluster.execution)
        watcher.sweep_started(feed, slots)
        if not feed.is_over:
            from harness.launch.ray_tune import run_ray

            run_ray(feed, study.path, cluster, watcher, scratch, slots, drain)
        if feed.is_over and study.leads and not drain.requested:
            exclusive = ExclusiveGangs(cluster)
            stack.callback(exclusive.close)
            _time(study, plan(), cluster, watcher, exclusive.of, timing, drain)


def _time(
    study: Study,
    plan: Sequence[PlannedTrial],
    cluster: Cluster,
    watcher: Watcher,
    gang_of: "GangOf",
    timing: tuple[int, float],
    drain: Drain,
) -> None:
    finished = [planned for planned in plan if study.record(planned).is_finished]
    todo = untimed(finished, {row["key"] for row in study.timings()})
    run_timing_pass(todo, study.path, cluster, gang_of, timing, study.add_timing, watcher.say, lambda: drain.requested)


class GangOf(Protocol):
    def __call__(self, world_size: int, /) -> Gang: ...
