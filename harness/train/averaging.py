"""Exponential moving average of the weights with a half-life in examples, bias-corrected from step 0 (P13).

Floating buffers outside batch norm are averaged like weights, others copied (P33); batch norm is re-estimated.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from harness.optimizers.step_formulas import lerp
from harness.train.buffers import Buffers, KeptBuffers
from harness.train.model_copy import copy_model


def decay_per_step(half_life_examples: float, total_batch_size: int) -> float:
    """The factor by which one update of `total_batch_size` examples ages the average: 2^(-TBS / half-life)."""
    return 0.5 ** (total_batch_size / half_life_examples)


class Average:
    """The average of `weights`, into `average`, and of the floating buffers of `source`, into `buffers`."""

    def __init__(
        self, average: list[Tensor], weights: list[Tensor], decay: float, buffers: Buffers, source: Buffers
    ) -> None:
        self.decay = decay
        self.steps = 0
        self._average, self._weights = average, weights
        self.buffers, self._source = buffers, source

    def next_weight(self) -> float:
        """Count one more update, and give the weight that its weights get in the average.

        (1 - d) / (1 - d^t) keeps the average unbiased at every t: after one update it equals the weights (Adam's
        correction, Kingma & Ba 2015, section 3, folded into the recursion).
        """
        self.steps += 1
        return (1 - self.decay) / (1 - self.decay**self.steps)

    @torch.no_grad()
    def update(self, on_device: Tensor | None = None) -> None:
        """Add the weights after one more update to the average. `on_device`: what `next_weight` gave, as a scalar there
        (see train.graphs)."""
        moving = list(zip(self.buffers.floating(), self._source.floating(), strict=True))
        if on_device is not None:
            lerp(self._average, self._weights, on_device)
            for average, value in moving:
                average += (value - average) * on_device
            return
        weight = self.next_weight()
        torch._foreach_lerp_(self._average, self._weights, weight)  # pyright: ignore[reportPrivateImportUsage]
        for average, value in moving:
            average.lerp_(value, weight)

    def copy_rest(self) -> None:
        """Copy the moving buffers that cannot be averaged, such as counters."""
        self.buffers.moving = self._source.moving
        self.buffers.load({name: self._source[name] for name in self._source.moving if not self._source.floats(name)})


class AveragedModel(Average):
    """A copy of the model whose parameters are the average; evaluate `module` like any model after `copy_rest`."""

    def __init__(self, model: nn.Module, decay: float, buffers: Buffers | None = None) -> None:
        """`buffers`: those of `model`, if they are known."""
        self.module = copy_model(model).requires_grad_(False).eval()
        average: list[Tensor] = list(self.module.parameters())
        super().__init__(average, list(model.parameters()), decay, Buffers(self.module), buffers or Buffers(model))

    @contextmanager
    def evaluated(self) -> Iterator[nn.Module]:
        """The model to call."""
        yield self.module


class AveragedShards(Average):
    """The average of what this rank holds of a split model, which takes it in the place of its own for evaluations.

    A second module would need a second set of gathered blocks.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Mapping[str, Tensor],
        decay: float,
        buffers: Buffers,
        forget_gathered: Callable[[], None],
    ) -> None:
        """`forget_gathered` makes the model gather its weights anew in the next forward pass."""
        self.parameters = {name: value.detach().clone() for name, value in parameters.items()}
        self._model, self._forget_gathered = model, forget_gathered
        weights = [value.detach() for value in parameters.values()]
        super().__init__(list(self.parameters.values()), weights, decay, KeptBuffers(buffers), buffers)

    @contextmanager
    def evaluated(self) -> Iterator[nn.Module]:
        """The model with the average in it; its own weights return at the end."""
        self._exchange()
        try:
            yield self._model
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        self._forget_gathered()
        buffers = zip(self.buffers.all(), self._source.all(), strict=True)
        for average, value in (*zip(self._average, self._weights, strict=True), *buffers):
            kept = value.clone()
            value.copy_(average)
            average.copy_(kept)
