"""Sequences of different lengths: stored without padding, padded in each micro-batch to its own longest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from harness.datasets.examples import Batch
from harness.datasets.tree import floats_in, leaves, map_tree, to_device
from harness.plan.errors import UserError


@dataclass(frozen=True)
class Ragged:
    """Sequence i is `values[offsets[i] : offsets[i + 1]]`, on the host; `padding` stands behind its end in a batch."""

    values: Tensor  # [total, ...]
    offsets: Tensor  # int64 [n + 1], from 0 to total
    padding: float = 0

    @staticmethod
    def of(sequences: Sequence[Tensor], padding: float = 0) -> "Ragged":
        """From the sequences [length, ...] themselves."""
        lengths = torch.tensor([0, *map(len, sequences)])
        return Ragged(torch.cat(list(sequences)), lengths.cumsum(0), padding)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def inside(self, index: Tensor, width: int | None) -> Tensor:
        """Which elements of `padded` belong to a sequence, bool [n, width]."""
        lengths = self.offsets[index + 1] - self.offsets[index]
        return torch.arange(int(lengths.max()) if width is None else width) < lengths[:, None]

    def padded(self, index: Tensor, width: int | None) -> Tensor:
        """The sequences at `index`, [n, width, ...]; None: as wide as the longest of them."""
        inside = self.inside(index, width)
        rows = self.offsets[index][:, None] + torch.arange(inside.shape[1])
        padded = self.values[rows.clamp(max=len(self.values) - 1)]
        return padded.masked_fill_(~inside.view(*inside.shape, *[1] * (padded.dim() - 2)), self.padding)


@dataclass(frozen=True)
class RaggedExamples:
    """Inputs and targets as trees (see datasets.tree) of tensors [n, ...] and Ragged, gathered on the host.

    Targets with one value per element are Ragged with padding -100, which losses do not count. `mask`: the name under
    which inputs, then a mapping, also get 1 for each element of their first Ragged and 0 for its padding, int64
    [n, width]. `width`: of every batch; compiled models need one, which costs time on padding.
    """

    inputs: Any
    targets: Any
    mask: str | None = None
    width: int | None = None

    every_target_counts = False  # shapes differ from batch to batch

    def __post_init__(self) -> None:
        parts = [*_parts(self.inputs), *_parts(self.targets)]
        if self.mask is not None and not (isinstance(self.inputs, Mapping) and _ragged(self.inputs)):
            raise UserError("RaggedExamples.mask is added to inputs that are a mapping with a Ragged in it")
        if len(sizes := {len(part) for part in parts}) != 1:
            raise UserError(f"inputs and targets of RaggedExamples hold {sorted(sizes)} examples: give all the same")
        longest = max((int(part.offsets.diff().max()) for part in parts if isinstance(part, Ragged)), default=0)
        if self.width is not None and longest > self.width:
            raise UserError(f"a sequence of {longest} elements exceeds RaggedExamples.width={self.width}")

    def __len__(self) -> int:
        return len(_parts(self.targets)[0])

    def to(self, device: torch.device, dtype: torch.dtype) -> "RaggedExamples":
        def converted(part: Tensor | Ragged) -> Tensor | Ragged:
            if isinstance(part, Ragged):
                return replace(part, values=floats_in(part.values, dtype))
            return part.to(dtype) if part.is_floating_point() else part

        return replace(self, inputs=map_tree(converted, self.inputs, (Tensor, Ragged)))

    def batch(self, index: Tensor) -> Batch:
        return self.deliver(self.gather(index.cpu(), index.is_cuda), index)

    def gather(self, index: Tensor, pinned: bool) -> Batch:
        def gathered(part: Tensor | Ragged) -> Tensor:
            return part.padded(index, self.width) if isinstance(part, Ragged) else part.index_select(0, index)

        inputs, targets = (map_tree(gathered, tree, (Tensor, Ragged)) for tree in (self.inputs, self.targets))
        if self.mask is not None:
            inputs[self.mask] = _ragged(self.inputs)[0].inside(index, self.width).long()
        batch = Batch(inputs, targets)
        return Batch(*(map_tree(Tensor.pin_memory, tree) for tree in batch)) if pinned else batch

    def deliver(self, gathered: Batch, index: Tensor) -> Batch:
        return Batch(*(to_device(tree, index.device, non_blocking=index.is_cuda) for tree in gathered))


def _parts(tree: Any) -> list[Any]:
    return [part for _, part in leaves(tree, (Tensor, Ragged))]


def _ragged(tree: Any) -> list[Ragged]:
    return [part for part in _parts(tree) if isinstance(part, Ragged)]
