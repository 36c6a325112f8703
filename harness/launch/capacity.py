"""Whether the trials fit on the nodes, checked before anything starts (P19)."""

from collections.abc import Sequence

from harness.launch.tasks import Cluster
from harness.plan.errors import UserError


def fit(cluster: Cluster, world_sizes: set[int], nodes: Sequence[tuple[float, float]]) -> int:
    """How many trials of the smallest world size fit on `nodes` (CPUs, GPUs) at once.

    Raises UserError if the largest world size does not fit.
    """
    slots = workers_that_fit(cluster, nodes)
    largest = max(world_sizes, default=1)
    if largest > slots:
        have = f"{sum(c for c, _ in nodes):g} CPUs and {sum(g for _, g in nodes):g} GPUs on {len(nodes)} node(s)"
        raise UserError(
            f"a trial needs {largest} workers of {cluster.cpus_per_worker} CPU and {cluster.gpus_per_worker:g} GPU, "
            f"but the cluster has {have}: at most {slots} workers fit; lower cluster.workers_per_trial, "
            "cluster.cpus_per_worker or cluster.gpus_per_worker"
        )
    return max(1, slots // min(world_sizes, default=1))


def workers_that_fit(cluster: Cluster, nodes: Sequence[tuple[float, float]]) -> int:
    """How many workers fit on the nodes (CPUs, GPUs); a worker cannot span two nodes."""

    def on(cpus: float, gpus: float) -> int:
        by_gpu = int(gpus / cluster.gpus_per_worker + 1e-9) if cluster.gpus_per_worker else 10**9
        return min(int(cpus // cluster.cpus_per_worker), by_gpu)

    return sum(on(cpus, gpus) for cpus, gpus in nodes)
