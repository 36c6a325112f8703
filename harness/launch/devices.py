"""Which devices trials train on: decided by the nodes they will run on, not by what the driver's torch sees."""

import os
from collections import Counter
from collections.abc import Collection, Sequence

import torch

from harness.launch.ray_cluster import running_nodes
from harness.launch.ray_probe import NodeResources
from harness.launch.tasks import Cluster
from harness.plan.cluster import ANY, ClusterConfig, Slurm
from harness.plan.counted import count
from harness.plan.errors import UserError
from harness.record.gpus import VISIBLE, Gpu, counted_names, listed_gpus, visible_gpus, visible_slices
from harness.record.provenance import usable_cpus

OF_SLICES = (
    "a process sees one MIG slice at most, and slices cannot exchange gradients: use cluster.workers_per_trial=1, or "
    "GPUs that are not divided"
)


def nodes_of(config: ClusterConfig) -> list[NodeResources]:
    """The nodes where trials will run; UserError if a cluster does not answer."""
    if config.runs_here:
        return [NodeResources(float(config.cpus or usable_cpus()), float(gpus_here()))]
    return running_nodes(config.address)


def nodes_of_job(slurm: Slurm) -> list[NodeResources]:
    """The nodes that Slurm will grant; their GPUs' model is not known before the job runs."""
    return [NodeResources(float(slurm.cpus_per_node), float(slurm.gpus_per_node))] * slurm.nodes


def gpus_here() -> int:
    """GPUs that trials on this machine may use, MIG slices each for itself."""
    if not torch.cuda.is_available():
        return 0
    return visible_slices() or torch.cuda.device_count()


def listed_here() -> list[Gpu]:
    """What this machine's GPUs are, as far as this process may see them; the first `gpus_here` are those it uses."""
    return visible_gpus(listed_gpus(), os.environ.get(VISIBLE))


def uses_gpus(config: ClusterConfig, nodes: Sequence[NodeResources]) -> bool:
    """Whether trials train on GPUs; cluster.device=auto: if any of their nodes has some."""
    return any(node.gpus for node in nodes) if config.on_gpus is None else config.on_gpus


def chosen_model(wanted: str | None, nodes: Sequence[NodeResources]) -> str:
    """The model, as Ray names it, of the GPUs of a joined cluster that trials are kept to; empty: any model.

    UserError for a model that no node has, and for nodes of several models where none is chosen (P34).
    """
    gpus: Counter[str] = Counter()
    for node in nodes:
        if node.gpus:
            gpus[node.gpu_model] += int(node.gpus)
    if wanted == ANY or not gpus:
        return ""
    have = ", ".join(f"{number} x {model or 'a model that Ray does not know'}" for model, number in gpus.items())
    if wanted is not None:
        model = next((model for model in gpus if model.casefold() == wanted.casefold()), "")
        if not model:
            raise UserError(f"cluster.gpu_model={wanted}: no node has such GPUs, but {have}")
        return model
    if len(gpus) > 1:
        raise UserError(
            f"the cluster has GPUs of several models ({have}), whose seconds are never combined (P34): choose one with "
            f"cluster.gpu_model, or use all with cluster.gpu_model={ANY}"
        )
    return next(iter(gpus))


def check_models_here(wanted: str | None, names: Sequence[str]) -> None:
    """The same for GPUs of this machine, by the names that their driver gives; what is not listed is not checked."""
    if wanted == ANY or not names:
        return
    todo = f"list the UUIDs (nvidia-smi -L) of the GPUs to use in {VISIBLE}"
    if wanted is not None and (others := [name for name in names if wanted.casefold() not in name.casefold()]):
        raise UserError(f"cluster.gpu_model={wanted}, but this machine also has {counted_names(others)}: {todo}")
    if len(set(names)) > 1:
        raise UserError(
            f"this machine has GPUs of several models ({counted_names(names)}), whose seconds are never combined "
            f"(P34): {todo}, or use all with cluster.gpu_model={ANY}"
        )


def device_line(config: ClusterConfig, cluster: Cluster, nodes: Sequence[NodeResources] | None) -> str:
    """What trials train on and why, for a dry run; `nodes`: None where they did not answer."""
    is_gpu, model = cluster.device == "cuda", f" {cluster.gpu_model}" if cluster.gpu_model else ""
    what = f"GPUs{model}" if is_gpu else "CPUs"
    if config.on_gpus is not None and (config.runs_here or not is_gpu or nodes is None):
        values = {"gpus_per_worker": config.gpus_per_worker, "gpu_model": config.gpu_model, "device": config.device}
        return f"{what}, as cluster.{next(name for name, value in values.items() if value is not None)} says"
    if config.slurm is not None and config.runs_here:
        return f"{what}, as cluster.slurm.gpus_per_node says"
    if nodes is None:
        return f"{what}, as when the study began: the cluster does not answer"
    if config.runs_here:
        seen = f"{nodes[0].gpus:g}" if is_gpu else "no GPU"
        return f"{what}: torch sees {seen} on this machine"
    if not is_gpu:
        return f"{what}: no node at {config.address} has a GPU"
    used = [node for node in nodes if node.gpus and cluster.gpu_model in ("", node.gpu_model)]
    total = f"{sum(node.gpus for node in used):g}"
    return f"{what}: {total} on {len(used)} of {count(len(nodes), 'node')} at {config.address}"


def check_slices(world_sizes: Collection[int]) -> None:
    """Raises UserError for ranks on MIG slices of this machine."""
    if visible_slices() and max(world_sizes, default=1) > 1:
        raise UserError(f"{VISIBLE} names MIG slices, but a trial has {max(world_sizes)} ranks: {OF_SLICES}")


def device_hints(config: ClusterConfig, cluster: Cluster, listed: Sequence[Gpu]) -> list[str]:
    """What a user may not want: a slow precision, a GPU that torch cannot use, slices that are not used. `listed`: the
    GPUs that this machine has, where trials run on it."""
    hints = []
    if cluster.device == "cuda" and cluster.precision == "float32":
        hints.append(
            "hint: cluster.precision=float32 computes without the tensor cores of a GPU; bf16 or tf32 (from A100 on) "
            "are usually faster"
        )
    if listed and cluster.device == "cpu" and config.on_gpus is None:
        hints.append(
            f"hint: this machine has {counted_names([gpu.name for gpu in listed])}, which torch {torch.__version__} "
            "cannot use: trials train on CPUs; install a torch built for CUDA, or a newer driver"
        )
    slices = sum(gpu.is_slice for gpu in listed)
    if cluster.device == "cuda" and slices > max(1, visible_slices()):
        hints.append(
            f"hint: this machine has {slices} MIG slices, of which a process sees one: list their UUIDs (nvidia-smi "
            f"-L) in {VISIBLE} to run a trial on each"
        )
    return hints
