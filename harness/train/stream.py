"""One endless stream of training examples, and how its global batches are cut into ranks and micro-batches (P2)."""

import torch
from torch import Tensor

from harness.plan.batch import BatchPlan
from harness.train.seeds import derive_seed


class ExampleStream:
    """Permutation after permutation of the training set, each a function of (seed, epoch) alone.

    An endless data set has no permutations: position p of the stream is example `offset(seed) + p`.
    """

    def __init__(self, seed: int, train_examples: int, endless: bool = False) -> None:
        self.seed = seed
        self.train_examples = train_examples
        self.endless = endless
        self._permutations: dict[int, Tensor] = {}

    def permutation(self, epoch: int) -> Tensor:
        """Order of the training set in `epoch`, int64 [train_examples] on the CPU."""
        if epoch not in self._permutations:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
            # Only the newest two are needed: batches move forward and may span one boundary.
            self._permutations = {e: p for e, p in self._permutations.items() if e == epoch - 1}
            self._permutations[epoch] = torch.randperm(self.train_examples, generator=generator)
        return self._permutations[epoch]

    def positions(self, start: int, stop: int) -> Tensor:
        """Example indices at stream positions start <= p < stop, int64 [stop - start] on the CPU."""
        if self.endless:
            return torch.arange(start, stop) + (derive_seed(self.seed, "order") >> 16)
        size = self.train_examples
        pieces = [
            self.permutation(epoch)[max(start - epoch * size, 0) : stop - epoch * size]
            for epoch in range(start // size, -(-stop // size))
        ]
        return torch.cat(pieces)

    def epochs(self, start: int, stop: int) -> Tensor:
        """The epoch of each of these positions, int64 [stop - start]; 0 for an endless stream."""
        return torch.arange(start, stop) // self.train_examples * (not self.endless)


def cut(values: Tensor, plan: BatchPlan, rank: int, group: int) -> Tensor:
    """The part of `values` (one per stream position of whole global batches) that `rank` gets: [steps, accumulation,
    micro].

    Ranks take contiguous slices of each global batch, and micro-batches contiguous slices of those, so every cut has
    the same batch-norm groups of `group` consecutive examples. Inside a micro-batch the groups are laid out strided
    (see `group_layout`).
    """
    shape = (-1, plan.world_size, plan.gradient_accumulation_steps, plan.per_device_batch_size)
    return group_layout(values.view(shape)[:, rank], group).contiguous()


def group_layout(micro: Tensor, group: int) -> Tensor:
    """Reorder the last axis so that element j * G + q is member j of group q of `group` consecutive examples.

    With G groups of g examples, [m, C, ...] then views as [g, G * C, ...] without a copy, and one ordinary batch norm
    over G * C channels normalises every group by itself.
    """
    groups = micro.shape[-1] // group
    return micro.unflatten(-1, (groups, group)).transpose(-1, -2).flatten(-2)
