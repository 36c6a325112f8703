"""Options that make updates faster or smaller and change nothing but rounding, and where they cannot be used."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.utils.checkpoint import checkpoint

from harness.plan.errors import UserError
from harness.plan.execution import Speed
from harness.plan.instantiate import resolve
from harness.plan.settings import Settings, Spec
from harness.plan.trial import Topology

FUSED = (Adam, AdamW, SGD)  # those of torch with fused kernels on CPUs and GPUs


def check_speed(settings: Settings, topology: Topology, speed: Speed) -> None:
    """Raises UserError for options that do not work with this trial."""
    if speed.compile and settings.batch_norm.statistics == "running":
        raise UserError("cluster.compile=true does not work with batch_norm.statistics=running: use reestimated")
    if speed.activation_checkpointing and settings.noise_scale.frozen_units:
        raise UserError(
            "noise_scale.frozen_units needs per-example gradients: use cluster.activation_checkpointing=false"
        )
    if speed.gradient_compression and topology.precision != "bf16":
        raise UserError(
            "cluster.gradient_compression=true rounds gradients to bf16: use it with cluster.precision=bf16, "
            f"not {topology.precision}"
        )

    if speed.cuda_graph:
        _check_graph(settings, topology, speed)


def _check_graph(settings: Settings, topology: Topology, speed: Speed) -> None:
    """Raises UserError for what a recorded update cannot do."""
    blockers = {
        "more than one rank: use cluster.workers_per_trial=1": topology.batch.world_size > 1,
        "cluster.precision=fp16, which waits for the device at every update: use bf16": topology.precision == "fp16",
        "cluster.activation_checkpointing=true": speed.activation_checkpointing,
        "cluster.fused=true: choose one of them, a graph has steps of its own": speed.fused,
        "batch_norm.statistics=running: use reestimated": settings.batch_norm.statistics == "running",
        "noise_scale.in_training=true: use noise_scale.frozen_units": settings.noise_scale.in_training,
        "lr_scaling=adascale, which reads the gradient noise at every update": bool(settings.adascale_ratio),
    }
    if found := next((reason for reason, blocks in blockers.items() if blocks), None):
        raise UserError(f"cluster.cuda_graph=true does not work with {found}")


def optimizer_spec(spec: Spec, speed: Speed) -> Spec:
    """The optimizer as `speed` wants it; UserError for one without a fused implementation."""
    if not speed.fused:
        return spec
    if resolve(spec) not in FUSED:
        names = ", ".join(kind.__name__ for kind in FUSED)
        raise UserError(f"cluster.fused=true: choose one of {names} of torch.optim, not {spec['_target_']}")
    if spec.get("fused") is False or spec.get("foreach"):
        raise UserError("cluster.fused=true contradicts optimizer.fused=false and optimizer.foreach=true: remove them")
    return {**spec, "fused": True}


def load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Continue from a saved state, whichever implementation saved it."""
    own, groups = optimizer.param_groups, state["param_groups"]
    as_here = [{**saved, "fused": mine.get("fused")} for saved, mine in zip(groups, own, strict=True)]
    optimizer.load_state_dict({**state, "param_groups": as_here if "fused" in own[0] else groups})


def compress_gradients(ddp: DistributedDataParallel) -> None:
    """Let ranks exchange their gradients in bf16; the backend sums them in bf16."""
    ddp.register_comm_hook(None, _in_bf16)


def _in_bf16(state: None, bucket: dist.GradBucket) -> Future[Tensor]:  # pyright: ignore[reportPrivateImportUsage]
    # torch's own hook, which DDP rejects by name on CPUs although gloo supports bf16.
    return bf16_compress_hook(state, bucket)  # pyright: ignore[reportArgumentType]


def recompute_activations(model: nn.Module) -> None:
    """Keep only the inputs of the model's blocks and recompute what is inside them in the backward pass (Chen et al.
    2016, 1604.06174), with the same random numbers. Raises UserError for a model without blocks.
    """
    blocks = list(blocks_of(model))
    if not blocks:
        raise UserError(
            f"cluster.activation_checkpointing=true needs a model with nn.Sequential or nn.ModuleList blocks, which "
            f"{type(model).__name__} does not have"
        )
    for block in blocks:
        # On the instance, so that names of modules and parameters stay; a deep copy binds its own forward.
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def blocks_of(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost containers that are themselves made of layers; where none is, an nn.Sequential as a
    whole."""
    for child in module.children():
        if not isinstance(child, nn.Sequential | nn.ModuleList):
            yield from blocks_of(child)
            continue
        composed = [member for member in child if any(True for _ in member.children())]
        yield from composed or [child] * isinstance(child, nn.Sequential)


_compiled_for: tuple[object, ...] | None = None  # what the graphs that this process holds were compiled for


def compiled(model: nn.Module, topology: Topology, workload: str) -> Callable[..., Any]:
    """`model` through torch.compile with fixed shapes; graphs are kept while (workload, W, precision, micro-batch) are
    those of the last call, and dropped otherwise. Reaching the recompile limit is an error; it never falls back to
    eager.
    """
    global _compiled_for
    batch = topology.batch
    key = (workload, batch.world_size, topology.precision, batch.per_device_batch_size, topology.device)
    if key != _compiled_for:
        torch._dynamo.reset()
        _compiled_for = key
    torch._dynamo.config.fail_on_recompile_limit_hit = True  # pyright: ignore[reportAttributeAccessIssue]
    # On a CPU inductor would choose channels last for images, where every fold into ghost groups is a copy.
    options: dict[str, Any] | None = {"layout_optimization": False} if topology.device == "cpu" else None
    return torch.compile(model, dynamic=False, options=options)
