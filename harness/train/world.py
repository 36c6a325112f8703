"""The ranks of one trial; with one rank every collective is the identity."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class World:
    """This process's rank, the number of ranks and the device it computes on."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over ranks, in place; every rank ends with the same bits."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def maximum(self, tensor: Tensor) -> Tensor:
        """Maximum over ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """Every rank's tensor, [W, ...], bit for bit; shapes must agree."""
        if self.size == 1:
            return tensor[None]
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor)
        return torch.stack(parts)

    def decide(self, value: int) -> int:
        """Rank 0's integer, on every rank: how all ranks agree (P7)."""
        if self.size == 1:
            return value
        flag = torch.tensor([value], device=self.device)
        dist.broadcast(flag, src=0)
        return int(flag.item())

    def meet(self) -> None:
        """A barrier: returns once every rank has called it (on a GPU after waiting for the device)."""
        self.sum(torch.zeros((), device=self.device))

    def share(self, count: int) -> tuple[int, int]:
        """This rank's contiguous part [start, stop) of `count` items; sizes of parts differ by at most one."""
        return self.rank * count // self.size, (self.rank + 1) * count // self.size
