"""The batch equation: total = per device x workers x accumulation steps; checked, never rounded."""

from dataclasses import dataclass

from harness.plan.errors import UserError


@dataclass(frozen=True)
class BatchPlan:
    """How one global batch is cut; every field counts examples or pieces, and the equation holds exactly."""

    total_batch_size: int
    per_device_batch_size: int
    world_size: int
    gradient_accumulation_steps: int

    def __post_init__(self) -> None:
        product = self.per_device_batch_size * self.world_size * self.gradient_accumulation_steps
        if min(self.per_device_batch_size, self.world_size, self.gradient_accumulation_steps) < 1:
            raise UserError(f"every factor of a batch must be >= 1, not {self}")
        if product != self.total_batch_size:
            raise UserError(
                f"total batch size {self.total_batch_size} is not {self.per_device_batch_size} per device x "
                f"{self.world_size} workers x {self.gradient_accumulation_steps} accumulation steps = {product}"
            )

    def __str__(self) -> str:
        return (
            f"{self.total_batch_size} = {self.per_device_batch_size} per device x {self.world_size} "
            f"worker{'s' * (self.world_size > 1)} x {self.gradient_accumulation_steps} accumulation "
            f"step{'s' * (self.gradient_accumulation_steps > 1)}"
        )


def plan_batch(
    total_batch_size: int, world_size: int, *, max_per_device: int | None = None, span_examples: int = 1
) -> BatchPlan:
    """The plan with the largest micro-batch <= `max_per_device` that splits the batch into whole batch-norm groups.

    `span_examples` is the size of a ghost batch-norm group; every micro-batch is a multiple of it (1: no batch norm).
    Where no micro-batch fits, raises UserError with the nearest valid total batch sizes.
    """
    if total_batch_size < 1 or world_size < 1:
        raise UserError(f"total batch size and workers must be >= 1, not {total_batch_size} and {world_size}")
    quantum = world_size * span_examples
    if total_batch_size % quantum:
        group = f" in batch-norm groups of {span_examples}" if span_examples > 1 else ""
        raise UserError(
            f"total batch size {total_batch_size} cannot be split over {world_size} "
            f"worker{'s' * (world_size > 1)}{group}: the nearest valid values are {nearest(total_batch_size, quantum)}"
        )
    per_worker = total_batch_size // world_size
    cap = per_worker if max_per_device is None else max_per_device
    if cap < span_examples:
        raise UserError(
            f"per_device_batch_size {cap} is below the batch-norm span of {span_examples} examples: "
            f"use a multiple of {span_examples}"
        )
    groups = per_worker // span_examples
    micro_groups = max(size for size in divisors(groups) if size * span_examples <= cap)
    micro = micro_groups * span_examples
    return BatchPlan(total_batch_size, micro, world_size, per_worker // micro)


@dataclass(frozen=True)
class Placement:
    """How many workers a trial gets and how large a micro-batch may be; the cluster's part of every batch plan."""

    workers_per_trial: int | None = 1  # None: one for every `max_per_device` examples of the total batch
    max_per_device: int | None = None
    max_workers: int | None = None  # where workers_per_trial is None; batches too large for them are accumulated

    def __post_init__(self) -> None:
        if self.workers_per_trial is None and self.max_per_device is None:
            raise UserError(
                "cluster.workers_per_trial=null needs cluster.per_device_batch_size, the examples each worker gets: "
                "set it, or give a number of workers"
            )

    def world_size(self, total_batch_size: int) -> int:
        """Number of workers of a trial; UserError where one of them would get only part of a micro-batch."""
        if self.workers_per_trial is not None:
            return self.workers_per_trial
        assert self.max_per_device is not None
        if total_batch_size <= self.max_per_device:
            return 1
        pieces, rest = divmod(total_batch_size, self.max_per_device)
        if rest:
            raise UserError(
                f"total batch size {total_batch_size} is not a multiple of cluster.per_device_batch_size="
                f"{self.max_per_device}, each worker's share with cluster.workers_per_trial=null: "
                f"the nearest valid values are {nearest(total_batch_size, self.max_per_device)}"
            )
        return max(size for size in divisors(pieces) if self.max_workers is None or size <= self.max_workers)

    def plan(self, total_batch_size: int, span_examples: int) -> BatchPlan:
        world_size = self.world_size(total_batch_size)
        return plan_batch(total_batch_size, world_size, max_per_device=self.max_per_device, span_examples=span_examples)


def divisors(n: int) -> list[int]:
    """All divisors of n >= 1, ascending."""
    small = [d for d in range(1, int(n**0.5) + 1) if n % d == 0]
    return small + [n // d for d in reversed(small) if d * d != n]


def nearest(value: int, quantum: int) -> str:
    """The multiples of `quantum` on either side of `value`, for an error message."""
    below = value // quantum * quantum
    return f"{below} and {below + quantum}" if below else f"{quantum} and {2 * quantum}"
