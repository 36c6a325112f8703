"""Runs a study's trials with the configured launcher, then times its topologies alone on the machine."""

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from harness.launch.capacity import fit
from harness.launch.drain import Drain
from harness.launch.feed import Feed
from harness.launch.inline import InlineGangs, run_inline
from harness.launch.listener import Watcher
from harness.launch.measures import Gangs
from harness.launch.ray_watch import RayWatch
from harness.launch.tasks import Cluster
from harness.launch.timing_pass import TimingPass, speed_of
from harness.plan.settings import Spec
from harness.plan.timing import untimed
from harness.plan.trial import PlannedTrial
from harness.record.study import Study


def run_study(
    study: Study, feed: Feed, cluster: Cluster, watcher: Watcher, specs: Sequence[Spec], drain: Drain
) -> None:
    """Run every trial of the feed; unless the run was interrupted, the feed is over afterwards.

    `specs` name the classes whose code every node must have; the first is that of the data set.
    """

    def time_topologies(gangs: Gangs) -> None:
        """The timing pass, once no trial is left."""
        if feed.is_over and study.leads and not drain.requested:
            todo, done = _untimed(study, feed.source.plan(), cluster), {row["key"] for row in study.timings()}
            for row in TimingPass(todo, done, watcher.say, lambda: drain.requested).measure(gangs, study.path):
                study.add_timing(row)

    with ExitStack() as stack:
        stack.enter_context(drain.of_study(study.lease.folder, study.lease.number, cluster.grace_s))
        here = InlineGangs(cluster)
        stack.callback(here.close)
        embedded = cluster.address == "local"
        if cluster.launcher == "inline":
            watcher.sweep_started(feed, 1)
            run_inline(feed, study.path, cluster, watcher, here, drain)
            watcher.trials_over()
        elif feed.is_over and (embedded or not (study.leads and _untimed(study, feed.source.plan(), cluster))):
            watcher.sweep_started(feed, 1)  # nothing to run on the cluster, so Ray need not start
            watcher.trials_over()
        else:
            _run_through_ray(study, feed, cluster, watcher, specs, drain, time_topologies)
            drain.listen()  # Ray removes the signal handlers when it shuts down
        if cluster.launcher == "inline" or embedded:
            time_topologies(here)  # an embedded cluster ran on this machine, which is quieter without it


def _run_through_ray(
    study: Study,
    feed: Feed,
    cluster: Cluster,
    watcher: Watcher,
    specs: Sequence[Spec],
    drain: Drain,
    time_topologies: Callable[[Gangs], None],
) -> None:
    """Run the trials and, on a cluster that was joined, the timing pass on its nodes."""
    from harness.launch.ray_cluster import ray_cluster, token_warning
    from harness.launch.ray_probe import node_resources

    def say_last(line: str) -> None:
        watcher.trials_over()
        print("error:", line, file=sys.stderr, flush=True)
        study.close()

    with ray_cluster(cluster) as scratch, ExitStack() as stack:
        if cluster.address == "local":
            stack.enter_context(RayWatch(scratch, say_last))
        drain.listen()
        if warning := token_warning(cluster.address):
            watcher.say(warning)
        # Imported only here: Ray reads its environment variables when it is first imported.
        from harness.launch.environment import SharedEnvironment, withheld
        from harness.launch.preflight import check_nodes
        from harness.launch.ray_gang import ExclusiveGangs
        from harness.launch.ray_tune import run_ray

        if notice := withheld(cluster.pass_environment):
            watcher.say(notice)
        environment = SharedEnvironment(cluster.pass_environment)
        world_sizes = {planned.topology.batch.world_size for planned in feed.source.plan()}
        if cluster.address != "local":  # an embedded cluster is this machine and this Python
            check_nodes(study, cluster, specs, max(world_sizes, default=1), environment.key, watcher.say)
        slots = fit(cluster, world_sizes, node_resources())
        watcher.sweep_started(feed, slots)
        if not feed.is_over:
            run_ray(feed, study.path, cluster, watcher, scratch, slots, drain, environment.key)
        watcher.trials_over()
        if cluster.address != "local":
            exclusive = ExclusiveGangs(cluster)
            try:
                time_topologies(exclusive)
            finally:
                exclusive.close()


def _untimed(study: Study, plan: Sequence[PlannedTrial], cluster: Cluster) -> list[PlannedTrial]:
    """One finished trial of every topology to time."""
    finished = [planned for planned in plan if study.record(planned).is_finished]
    return untimed(finished, study.timings(), speed_of(cluster.execution), cluster.cpus_per_worker)
