"""AdaScale in the loop: the LR of every update from the noise of its base batches (Johnson et al. 2020, 2007.05105).

Every micro-batch is one base batch, so that the gain is the same on any number of ranks; a hook on each parameter
sees its gradient before it is added to others. The LR of an update depends on its own gradients, which costs one sum
over ranks and one read from the device per update; the other LR rules need neither.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from harness.plan.batch import BatchPlan
from harness.plan.coscaling import AdaScale
from harness.plan.errors import UserError
from harness.plan.settings import Settings
from harness.plan.trial import Topology
from harness.train.noise_meter import micro_batch_share, square
from harness.train.world import World


class GainController:
    """Watches the updates of one model; all ranks hold the same gain."""

    def __init__(self, model: nn.Module, settings: Settings, batch: BatchPlan, world: World) -> None:
        self.batch, self.world = batch, world
        self._optimizer_target, self._ratio = settings.optimizer["_target_"], settings.adascale_ratio
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        for parameter in self._parameters:
            parameter.register_hook(self._add_square)
        self.reset()

    def reset(self) -> None:
        """Forget everything observed."""
        self.rule = AdaScale(self._optimizer_target, self._ratio)
        self.begin()

    def begin(self) -> None:
        """Call before the backward passes of an update."""
        self._squares = torch.zeros((), dtype=torch.float64, device=self.world.device)

    def _add_square(self, gradient: Tensor) -> None:
        self._squares += square(gradient)

    def observe(self, factor: Tensor | None) -> None:
        """Call after the backward passes and the reduction, before clipping; `factor`: what the gradients were
        multiplied by after the reduction (see Learner._recount)."""
        ranks = self.batch.world_size
        small = micro_batch_share(self._squares, self.batch, factor)
        big = get_total_norm([p.grad for p in self._parameters if p.grad is not None]).double().square()
        small_mean, big_mean = self.world.sum(torch.stack([small, big / ranks])).tolist()
        self.rule.observe(small_mean, big_mean, self.batch.gradient_accumulation_steps * ranks)

    def row(self) -> dict[str, float]:
        """The gain, and the progress in updates of the base batch size (gain-steps), for an evaluation's row."""
        return {"gain": self.rule.gain, "gain_steps": self.rule.progress}


def check_gain(settings: Settings, topology: Topology) -> None:
    """Raises UserError for a batch plan or a precision that AdaScale cannot run with."""
    if not settings.adascale_ratio:
        return
    base = settings.total_batch_size // settings.adascale_ratio
    if topology.batch.per_device_batch_size != base:
        raise UserError(
            "AdaScale needs micro-batches of exactly one base batch: use "
            f"cluster.per_device_batch_size={base}, not {topology.batch.per_device_batch_size}"
        )
    if topology.precision == "fp16":
        raise UserError("AdaScale cannot measure gradients in fp16, which scales them: use bf16 or float32")
