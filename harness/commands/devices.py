"""What a session's trials train on: settled before anything is planned, because a topology names its device."""

import os
from collections.abc import Sequence
from typing import NamedTuple

from harness.config.configuration import Configuration
from harness.launch.devices import (
    check_models_here,
    chosen_model,
    device_hints,
    device_line,
    gpus_here,
    listed_here,
    nodes_of,
    nodes_of_job,
    uses_gpus,
)
from harness.launch.ray_probe import NodeResources
from harness.launch.tasks import Cluster, cluster_of
from harness.plan.cluster import ClusterConfig
from harness.plan.errors import UserError
from harness.record.study import StudyFolder


class Devices(NamedTuple):
    """A session's cluster, and what is known of the nodes where its trials run."""

    cluster: Cluster
    nodes: Sequence[NodeResources] | None  # None: not asked, or they did not answer
    line: str  # for a dry run
    hints: Sequence[str] = ()


def settle_devices(config: Configuration) -> Devices:
    """The devices of the nodes where the trials will run.

    UserError for GPUs of several models, and for a cluster that does not answer, unless the study says what its trials
    train on: a finished study needs no cluster.
    """
    cluster = config.cluster
    if cluster.slurm is not None and "SLURM_JOB_ID" not in os.environ:
        return of_slurm_job(cluster)
    if cluster.runs_here:
        return of_this_machine(cluster)
    nodes = _nodes(config)
    on_gpus = uses_gpus(cluster, nodes) if nodes is not None else _stored(config)
    model = chosen_model(cluster.gpu_model, nodes) if on_gpus and nodes is not None else ""
    return _devices(cluster, cluster_of(cluster, bool(on_gpus), model), nodes)


def of_this_machine(cluster: ClusterConfig) -> Devices:
    """The devices of this machine, for trials that run here and for what is measured in this process."""
    nodes = nodes_of(cluster) if cluster.runs_here else [NodeResources(0.0, float(gpus_here()))]
    settled = cluster_of(cluster, uses_gpus(cluster, nodes))
    listed = listed_here() if cluster.on_gpus is not False else []
    if settled.device == "cuda":
        check_models_here(cluster.gpu_model, [gpu.name for gpu in listed[: int(nodes[0].gpus)]])
    hints = device_hints(cluster, settled, listed)
    return Devices(settled, nodes, device_line(cluster, settled, nodes), hints)


def of_slurm_job(cluster: ClusterConfig) -> Devices:
    """The devices of the nodes that Slurm is to grant."""
    assert cluster.slurm is not None
    nodes = nodes_of_job(cluster.slurm)
    return _devices(cluster, cluster_of(cluster, uses_gpus(cluster, nodes)), nodes)


def _devices(cluster: ClusterConfig, settled: Cluster, nodes: Sequence[NodeResources] | None) -> Devices:
    return Devices(settled, nodes, device_line(cluster, settled, nodes), device_hints(cluster, settled, ()))


def _nodes(config: Configuration) -> Sequence[NodeResources] | None:
    """Those of the cluster; None where it need not be asked, or where it does not answer and the study tells enough."""
    if config.cluster.on_gpus is False:
        return None
    try:
        return nodes_of(config.cluster)
    except UserError:
        if _stored(config) is None:
            raise
        return None


def _stored(config: Configuration) -> bool | None:
    """Whether a study's trials were planned for GPUs, by the configuration or by its earlier sessions; None where it
    has none."""
    folder = StudyFolder(config.folder)
    if config.cluster.on_gpus is not None or not folder.exists:
        return config.cluster.on_gpus
    device = (folder.description().get("hardware") or {}).get("device")
    return None if device is None else device == "cuda"
