"""The largest micro-batch that fits in a worker's memory, by trial runs (cluster.per_device_batch_size=auto)."""

import gc
from collections.abc import Callable
from dataclasses import replace

import torch

from harness.datasets.examples import Splits
from harness.plan.batch import BatchPlan
from harness.plan.errors import UserError
from harness.plan.execution import Speed
from harness.plan.gradient_noise import NoiseScale
from harness.plan.settings import Settings
from harness.plan.trial import Topology
from harness.train.allocator import allocator_fraction, release_cache
from harness.train.learner import Learner
from harness.train.world import World

HEADROOM = 0.9  # of the memory that a trial may use; the rest is for DDP's buckets and fragmentation


def largest_that_fits(largest: int, quantum: int, fits: Callable[[int], bool]) -> int:
    """`largest`, or the first of its halves, quarters, ... (whole multiples of `quantum`) that `fits`.

    Raises UserError where not even `quantum` examples fit.
    """
    size = largest
    while size >= quantum:
        if fits(size):
            return size
        size = size // 2 // quantum * quantum
    raise UserError(
        f"not even a micro-batch of {quantum} examples fits in a worker's memory: use a smaller model, "
        "cluster.activation_checkpointing=true or cluster.precision=bf16"
    )


def largest_micro_batch(
    settings: Settings, topology: Topology, world: World, splits: Splits, speed: Speed, memory_share: float
) -> int:
    """Try a few updates at TBS / W and below until they fit in `memory_share` of the device's memory."""
    if world.device.type == "cuda":
        total = torch.cuda.get_device_properties(world.device).total_memory
        fraction = HEADROOM * allocator_fraction(memory_share, total)
        torch.cuda.set_per_process_memory_fraction(fraction, world.device)

    def fits(micro: int) -> bool:
        where = replace(topology, batch=BatchPlan(micro, micro, 1, 1))
        alone = replace(settings, total_batch_size=micro, noise_scale=NoiseScale(), adascale_ratio=0)
        try:
            Learner(alone, 0, where, world, splits, speed).warm_up()
            return True
        except torch.OutOfMemoryError:
            return False
        finally:
            gc.collect()
            release_cache(world.device)

    batch = topology.batch
    quantum = settings.batch_norm.span_examples if settings.batch_norm.span == "ghost" else 1
    return largest_that_fits(batch.total_batch_size // batch.world_size, quantum, fits)
