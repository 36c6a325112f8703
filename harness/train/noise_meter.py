"""Measures the gradient noise during training: squared norms of micro-batch gradients and of batch gradients.

A hook on each parameter sees the gradient of one backward pass on this rank, before it is added to earlier ones and
before DDP reduces it, and changes no result of the training. A communication hook would see whole buckets, with the
accumulated micro-batches in one sum, and nothing at all with one rank. The micro-batch is the small batch and the
global batch the big one, so the same micro-batches give the same sums on any number of ranks. Nothing is read from the
device between two evaluations.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from harness.plan.batch import BatchPlan
from harness.plan.errors import UserError
from harness.plan.gradient_noise import MomentAverage, Moments, two_batch
from harness.plan.settings import Settings
from harness.train.world import World

BLOCKS = 8  # per evaluation interval: the bootstrap resamples neighbouring updates together
METRICS = ("plain", "preconditioned")  # |g| and |P g|, with P the scaling that Adam applies to a gradient
SECOND_MOMENTS = ("exp_avg_sq", "second_moment")  # names in torch's and in our optimizers


class NoiseMeter:
    """Observes the updates of one model; its sums are on the device, and this rank's own until `read`."""

    def __init__(self, model: nn.Module, settings: Settings, batch: BatchPlan, world: World, endless: bool) -> None:
        self.batch = batch
        self.world = world
        self.every = settings.evaluate_every_examples
        self.population = None if endless else settings.train_examples
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        for index, parameter in enumerate(self._parameters):
            parameter.register_hook(self._hook(index))
        self._block: int | None = None  # of the current update; None: not measured
        self._scales: list[Tensor] | None = None
        self.reset()

    def reset(self) -> None:
        """Forget everything measured."""
        self.sums = torch.zeros(BLOCKS, len(METRICS), 3, dtype=torch.float64, device=self.world.device)
        self.averages = [MomentAverage() for _ in METRICS]

    def begin(self, start: int, optimizer: torch.optim.Optimizer) -> None:
        """Call before the backward passes of the update whose batch begins at stream position `start`.

        A batch that spans two passes through the training set is left out: it may hold an example twice, and the
        correction for drawing without replacement is that of one pass.
        """
        last = start + self.batch.total_batch_size - 1
        spans_two = self.population is not None and start // self.population != last // self.population
        self._block = None if spans_two else start % self.every * BLOCKS // self.every
        self._scales = preconditioner(optimizer, self._parameters) if self._block is not None else None
        self._squares = torch.zeros(len(METRICS), dtype=torch.float64, device=self.world.device)

    def _hook(self, index: int) -> Callable[[Tensor], None]:
        def add_squares(gradient: Tensor) -> None:
            if self._block is not None:
                self._squares[0] += square(gradient)
                if self._scales is not None:
                    self._squares[1] += square(gradient * self._scales[index])

        return add_squares

    def end(self, factor: Tensor | None) -> None:
        """Call after the backward passes and the reduction, before clipping; `factor`: what the gradients were
        multiplied by after the reduction (see Learner._recount)."""
        if self._block is None:
            return
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        small = micro_batch_share(self._squares, self.batch, factor)
        row = self.sums[self._block]
        row[0] += self._sums_of(small[0], get_total_norm(gradients))
        if self._scales is not None:
            scaled = [p.grad * s for p, s in zip(self._parameters, self._scales, strict=True) if p.grad is not None]
            row[1] += self._sums_of(small[1], get_total_norm(scaled))
        self._block = self._scales = None

    def _sums_of(self, small: Tensor, norm: Tensor) -> Tensor:
        """[3]: this rank's share of one update, its micro-batches' mean squared norm and the batch's squared norm."""
        parts = [torch.full_like(small, 1 / self.world.size), small, norm.double().square() / self.world.size]
        return torch.stack(parts)

    def read(self) -> dict[str, Any]:
        """The interval's sums over all ranks and the averages so far, as JSON values; starts a new interval."""
        sums = self.world.sum(self.sums.clone()).tolist()
        self.sums.zero_()
        sizes = {"piece_examples": self.batch.per_device_batch_size, "total_batch_size": self.batch.total_batch_size}
        blocks: dict[str, list[list[float]] | None] = {}
        for index, (name, average) in enumerate(zip(METRICS, self.averages, strict=True)):
            measured = [block[index] for block in sums if block[index][0] > 0]
            blocks[name] = measured or None
            if measured:
                average.update(self._moments(measured))
        values = [average.value for average in self.averages]
        scales = {
            name: value.noise_scale
            for name, value in zip(("training", "training_preconditioned"), values, strict=True)
            if value
        }
        return {
            "noise_scale": scales,
            "noise_sums": {"training": {**sizes, "population": self.population, **blocks}},
        }

    def _moments(self, blocks: list[list[float]]) -> Moments:
        updates, small, big = (math.fsum(column) for column in zip(*blocks, strict=True))
        sizes = self.batch.per_device_batch_size, self.batch.total_batch_size
        return two_batch(*sizes, small / updates, big / updates, self.population)

    def state(self) -> list[list[float]]:
        return [average.state() for average in self.averages]

    def restore(self, state: list[list[float]]) -> None:
        self.averages = [MomentAverage(values) for values in state]


def check_noise(settings: Settings, precision: str) -> None:
    """Raises UserError where the noise scale cannot be measured in this precision."""
    if settings.noise_scale.is_on and precision == "fp16":
        raise UserError("noise_scale cannot be measured in fp16, which scales gradients: use bf16 or float32")


@torch.no_grad()
def preconditioner(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> list[Tensor] | None:
    """P = 1 / (sqrt(v) + eps) of each parameter, v the bias-corrected second moment before this update. 0 for a weight
    without a gradient so far, whose 1 / eps would outweigh all others. None before the optimizer's first update, and
    where it does not keep a second moment of every parameter."""
    groups = {p: group for group in optimizer.param_groups for p in group["params"]}
    scales = []
    for p in parameters:
        state, group = optimizer.state.get(p, {}), groups[p]
        name = next((name for name in SECOND_MOMENTS if name in state), None)
        if name is None or "betas" not in group:
            return None
        corrected = state[name] / (1 - group["betas"][1] ** state["step"])
        scales.append(torch.where(corrected > 0, 1 / (corrected.sqrt() + group.get("eps", 1e-8)), 0.0))
    return scales


def micro_batch_share(squares: Tensor, batch: BatchPlan, factor: Tensor | None) -> Tensor:
    """This rank's share of the mean squared norm of an update's micro-batch gradients, from the sum that hooks made;
    `factor`: what the gradients were multiplied by after the reduction.

    A hook sees the gradient of its micro-batch's share of the batch mean, times W (by which DDP then divides). Times
    the accumulation steps, that is the mean gradient of the micro-batch.
    """
    small = squares * (batch.gradient_accumulation_steps / batch.world_size)
    return small if factor is None else small * factor.double().square()


def square(gradient: Tensor) -> Tensor:
    """Squared norm of one parameter's gradient, float64."""
    return torch.linalg.vector_norm(gradient.detach()).double().square()
