"""State of a model that is neither parameter nor batch norm: running means, counters, masks (P33).

A forward pass in training may change it, on every rank from that rank's own examples. Ranks agree at every evaluation:
on the mean of what is floating, on rank 0's value of anything else. In between every rank keeps its own, and a
checkpoint holds those of all ranks.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from harness.train.batch_norm import SpanBatchNorm
from harness.train.world import World


class Buffers:
    """The buffers of `model` outside batch norm, persistent or not; those that training has changed are `moving`."""

    def __init__(self, model: nn.Module) -> None:
        self._places: dict[str, tuple[nn.Module, str]] = {}
        for prefix, module in model.named_modules():
            if isinstance(module, SpanBatchNorm):
                continue
            for name, value in module.named_buffers(recurse=False):
                if value.numel():
                    self._places[f"{prefix}.{name}" if prefix else name] = module, name
        self._initial = self.copy()
        self._floating = [name for name in self._places if self.floats(name)]
        self.moving: list[str] = []

    def __getitem__(self, name: str) -> Tensor:
        module, own = self._places[name]
        return getattr(module, own)  # by name: a forward pass may replace the tensor

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def floats(self, name: str) -> bool:
        """Whether the buffer is one that can be averaged."""
        return self[name].is_floating_point() or self[name].is_complex()

    def floating(self) -> list[Tensor]:
        """The buffers that can be averaged, in a fixed order."""
        return [self[name] for name in self._floating]

    def all(self) -> list[Tensor]:
        return [self[name] for name in self._places]

    def copy(self) -> dict[str, Tensor]:
        return {name: self[name].clone() for name in self._places}

    def load(self, values: dict[str, Tensor]) -> None:
        """Set the named buffers; others stay."""
        for name, value in values.items():
            self[name].copy_(value)

    def transient(self) -> dict[str, Tensor]:
        """Moving buffers that `state_dict` leaves out."""
        places = {name: self._places[name] for name in self.moving}
        return {name: self[name] for name, (m, own) in places.items() if own in m._non_persistent_buffers_set}

    def note_moving(self, world: World) -> None:
        """Find what has changed since the start on any rank; all ranks must call it together."""
        if not self._places:
            return
        changed = [name in self.moving or not torch.equal(self[name], self._initial[name]) for name in self._places]
        flags = world.maximum(torch.tensor(changed, dtype=torch.int64, device=world.device)).tolist()
        self.moving = [name for name, flag in zip(self._places, flags, strict=True) if flag]

    def agree(self, world: World) -> None:
        """Give every rank the same moving buffers; all ranks must call it together."""
        if world.size == 1:
            return
        for name in self.moving:
            own = _as_float64(self[name])
            agreed = world.sum(own) / world.size if self.floats(name) else world.gather(own)[0]
            _set_from_float64(self[name], agreed)

    def moved(self) -> list[Tensor]:
        return [self[name] for name in self.moving]


class KeptBuffers(Buffers):
    """Other values of the same buffers, which no module holds."""

    def __init__(self, source: Buffers) -> None:
        self._places = source._places
        self._values = source.copy()
        self._initial = source.copy()
        self._floating = source._floating
        self.moving = []

    def __getitem__(self, name: str) -> Tensor:
        return self._values[name]


def rank_values(buffers: Sequence[Tensor]) -> list[Tensor]:
    """As flat float64 tensors, which hold every value of the usual types exactly."""
    return [_as_float64(value) for value in buffers]


def set_rank_values(buffers: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Inverse of `rank_values`."""
    for value, flat in zip(buffers, values, strict=True):
        _set_from_float64(value, flat)


def _as_float64(value: Tensor) -> Tensor:
    real: Any = torch.view_as_real(value) if value.is_complex() else value
    return real.detach().to(torch.float64).flatten()


def _set_from_float64(value: Tensor, flat: Tensor) -> None:
    real = torch.view_as_real(value) if value.is_complex() else value
    real.copy_(flat.view(real.shape))
