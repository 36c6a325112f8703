"""Whether the trials fit on the nodes, checked before anything starts (P19)."""

from collections.abc import Sequence

from harness.launch.ray_probe import NodeResources
from harness.launch.tasks import Cluster
from harness.plan.errors import UserError


def fit(cluster: Cluster, world_sizes: set[int], nodes: Sequence[NodeResources]) -> int:
    """How many trials of the smallest world size fit on `nodes` at once.

    Raises UserError if the largest world size does not fit.
    """
    slots = workers_that_fit(cluster, nodes)
    largest = max(world_sizes, default=1)
    if largest > slots:
        model = f"{cluster.gpu_model} " if cluster.gpu_model else ""
        gpus = sum(_gpus_for(cluster, node) for node in nodes)
        have = f"{sum(node.cpus for node in nodes):g} CPUs and {gpus:g} {model}GPUs on {len(nodes)} node(s)"
        raise UserError(
            f"a trial needs {largest} workers of {cluster.cpus_per_worker} CPU and {cluster.gpus_per_worker:g} GPU, "
            f"but the cluster has {have}: at most {slots} workers fit; lower cluster.workers_per_trial, "
            "cluster.cpus_per_worker or cluster.gpus_per_worker"
        )
    return max(1, slots // min(world_sizes, default=1))


def workers_that_fit(cluster: Cluster, nodes: Sequence[NodeResources]) -> int:
    """How many workers fit on the nodes; a worker cannot span two nodes."""

    def on(node: NodeResources) -> int:
        gpus = _gpus_for(cluster, node)
        by_gpu = int(gpus / cluster.gpus_per_worker + 1e-9) if cluster.gpus_per_worker else 10**9
        return min(int(node.cpus // cluster.cpus_per_worker), by_gpu)

    return sum(map(on, nodes))


def _gpus_for(cluster: Cluster, node: NodeResources) -> float:
    """The GPUs of a node that trials may use, which are of the cluster's model where it has one."""
    return node.gpus if cluster.gpu_model in ("", node.gpu_model) else 0.0
