"""Finds a study's largest micro-batch on one worker like those of its trials, before the trials are planned with it."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from harness.launch.causes import cause
from harness.launch.gang import Gang, GangError, ProcessGang
from harness.launch.tasks import Cluster, task_of
from harness.plan.errors import UserError
from harness.plan.settings import fingerprint
from harness.plan.trial import PlannedTrial


def find_cap(planned: Sequence[PlannedTrial], cluster: Cluster) -> int:
    """The largest micro-batch that fits for every model and optimizer of the plan; UserError if none does.

    One number for the whole study, so that all ranks of all trials agree; it limits the micro-batch, never the TBS.
    """
    largest: dict[str, PlannedTrial] = {}
    for p in sorted(planned, key=lambda p: p.topology.batch.total_batch_size // p.topology.batch.world_size):
        settings = p.trial.arm.settings
        largest[fingerprint([settings.model, settings.optimizer["_target_"], settings.dataset])] = p
    share = cluster.gpus_per_worker if 0 < cluster.gpus_per_worker < 1 else 1.0
    try:
        with _one_worker(cluster) as gang:
            caps = [gang.largest_micro_batch(task_of(p, Path(), cluster.execution), share) for p in largest.values()]
    except GangError as error:
        raise UserError(f"cluster.per_device_batch_size=auto: {cause(str(error))}") from error
    return min(caps)


@contextmanager
def _one_worker(cluster: Cluster) -> Iterator[Gang]:
    """A worker in its own process, which ends with its device context before the trials start."""
    with ExitStack() as stack:
        if cluster.launcher == "inline" or cluster.address == "local":
            gang = ProcessGang(1, cluster.device, cluster.cpus_per_worker)
            stack.callback(gang.close)
            yield gang
            return
        from harness.launch.ray_cluster import ray_cluster

        stack.enter_context(ray_cluster(cluster))
        from harness.launch.ray_gang import ExclusiveGangs

        gangs = ExclusiveGangs(cluster)
        stack.callback(gangs.close)
        yield gangs.of(1)
