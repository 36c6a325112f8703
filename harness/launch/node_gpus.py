"""What the nodes of a joined cluster say of their GPUs, and whether trials can use them alike."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from harness.launch.devices import OF_SLICES
from harness.launch.ray_probe import Node
from harness.launch.tasks import Cluster
from harness.plan.errors import UserError
from harness.plan.timing import LIBRARIES, hardware, library_text
from harness.record.gpus import counted_names, listed_gpus
from harness.train.machine import gpu_driver, gpu_libraries

UNKNOWN = "an unknown GPU"


@dataclass(frozen=True)
class NodeGpus:
    """Those of one node, whichever of them Ray may use."""

    names: Sequence[str]  # of GPUs and MIG slices, as nvidia-smi lists them; empty without that tool
    has_slices: bool
    driver: str
    torch: str
    libraries: Mapping[str, str]  # versions of CUDA, cuDNN and NCCL; empty where torch was built without CUDA

    @staticmethod
    def of_this_node() -> "NodeGpus":
        """Needs no access to a GPU: a task that asks for none sees none."""
        gpus = listed_gpus()
        names = [gpu.name for gpu in gpus]
        return NodeGpus(names, any(gpu.is_slice for gpu in gpus), gpu_driver(), torch.__version__, gpu_libraries())

    @property
    def kinds(self) -> str:
        """`NVIDIA H100 80GB HBM3, driver 550.54.15, CUDA 12.8, ...`: equal where seconds may be compared."""
        models = " + ".join(dict.fromkeys(self.names)) or UNKNOWN
        return ", ".join([hardware(models, self.driver), *library_text(self.libraries)])


def gpu_nodes(nodes: Sequence[Node], cluster: Cluster) -> list[Node]:
    """Those whose GPUs trials may use."""
    if cluster.device == "cpu":
        return []
    usable = [node for node in nodes if node.resources.gpus]
    return [node for node in usable if cluster.gpu_model in ("", node.resources.gpu_model)]


def check_gpus_alike(found: Mapping[str, NodeGpus], most_workers: int, say: Callable[[str], None]) -> None:
    """Raises UserError, in one line, for a node (by name) whose torch cannot use its GPUs or is not that of the others,
    or whose MIG slices cannot take the ranks of a trial; a line to `say` where nodes differ otherwise (P34)."""
    for name, gpus in found.items():
        if "cuda" not in gpus.libraries:
            raise UserError(
                f"{name} has GPUs, but its torch {gpus.torch} is built without CUDA: install one built for CUDA on "
                "every node with GPUs, or train on CPUs with cluster.device=cpu"
            )
        if gpus.has_slices and most_workers > 1:
            raise UserError(f"{name} has MIG slices of GPUs, but a trial has {most_workers} ranks: {OF_SLICES}")
    builds = {gpus.torch: name for name, gpus in found.items()}
    if len(builds) > 1:
        (one, first), (other, second), *_ = builds.items()
        raise UserError(f"{first} has torch {one}, {second} has torch {other}: make every node with GPUs the same")
    if len(kinds := sorted({gpus.kinds for gpus in found.values()})) > 1:
        say(f"nodes differ ({'; '.join(kinds)}): their seconds are kept apart (P34)")


def recorded(found: Mapping[str, NodeGpus]) -> dict[str, str]:
    """What study.json keeps of the GPUs of all nodes; nothing where there are none."""
    if not found:
        return {}
    nodes = found.values()
    libraries = {key: {gpus.libraries[key] for gpus in nodes if key in gpus.libraries} for key in LIBRARIES}
    texts = {"driver": {gpus.driver for gpus in nodes}, "torch": {gpus.torch for gpus in nodes}, **libraries}
    names = [name for gpus in nodes for name in gpus.names]
    return {"gpu": counted_names(names) or UNKNOWN, **{key: " + ".join(sorted(v)) for key, v in texts.items() if v}}
