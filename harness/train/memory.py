"""The memory that a trial's parameters take on a device and on its host, before anything starts."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.optimizers.groups import parameter_groups
from harness.plan.instantiate import instantiate, instantiate_as
from harness.plan.parameter_groups import ParameterGroups
from harness.plan.settings import Settings
from harness.train.meta_build import can_build_on_meta
from harness.train.parallel import separable_blocks
from harness.train.precision import DTYPES, HALF
from harness.train.sharding_checks import WITHOUT_CPU

BUILT = torch.float32.itemsize  # bytes of a parameter as its constructor makes it


@dataclass(frozen=True)
class Memory:
    """Of one model with its optimizer and average, without activations and data."""

    parameters: int
    total_bytes: Mapping[str, int | None]  # weights, gradients, optimizer, average, last update; None: not known
    gathered_bytes: int  # on every rank of a split model: whole weights of two blocks and the rest, and gradients
    largest_bytes: int  # of the largest parameter, as it is built
    on_meta: bool  # whether a split model may be built on meta

    def each(self, name: str) -> float | None:
        """Bytes per parameter; None where they are not known."""
        total = self.total_bytes[name]
        return None if total is None else total / self.parameters

    @property
    def total(self) -> int:
        return sum(value or 0 for value in self.total_bytes.values())

    def on_device(self, ranks: int) -> float:
        """Bytes on each device with the model split over so many `ranks`; 1: not split."""
        return self.total / ranks + (self.gathered_bytes if ranks > 1 else 0)

    def fewest_ranks(self, usable_bytes: float) -> int | None:
        """The smallest power of 2 of ranks with which it takes at most `usable_bytes` of each device; None: none."""
        return next((2**n for n in range(13) if self.on_device(2**n) <= usable_bytes), None)

    def to_build(self, ranks: int) -> float:
        """Bytes of host memory while the model is built: per rank; of a split one that is not built on meta, per node,
        whose ranks take turns."""
        whole = self.parameters * BUILT
        return whole / ranks + self.largest_bytes if ranks > 1 and self.on_meta else whole

    @property
    def checkpoint_bytes(self) -> int:
        return sum(self.total_bytes[name] or 0 for name in ("weights", "optimizer", "average"))


def memory_of(settings: Settings, precision: str) -> Memory:
    """From the model's shapes alone where its class can be built on meta, as most can."""
    model = _shapes(settings)
    size = DTYPES[precision].itemsize
    groups = parameter_groups(model, weight_decay=0.0, options=ParameterGroups(**settings.parameter_groups))
    parameters = list(model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    count = sum(p.numel() for p in parameters)
    blocks = sorted(sum(p.numel() for p in block.parameters()) for block in separable_blocks(model))
    together = count - sum(blocks) + sum(blocks[-2:])  # the next block is gathered while one computes
    gathered = HALF.get(precision, DTYPES[precision]).itemsize
    return Memory(
        parameters=count,
        total_bytes={
            "weights": count * size,
            "gradients": trained * size,
            "optimizer": _state_bytes(settings, groups, size),
            "average": count * size if settings.averaging.half_life_examples else 0,
            "last update": trained * size,
        },
        gathered_bytes=2 * together * gathered,
        largest_bytes=max(p.numel() for p in parameters) * BUILT,
        on_meta=can_build_on_meta(settings.model),
    )


def _shapes(settings: Settings) -> nn.Module:
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the rehearsal has shown them
        try:
            with torch.device("meta"):
                return instantiate_as(nn.Module, "model", settings.model)
        except Exception:  # a constructor that reads values
            return instantiate_as(nn.Module, "model", settings.model)


def _state_bytes(settings: Settings, groups: list[dict[str, Any]], size: int) -> int | None:
    """What the optimizer keeps of these parameters after an update; None where that cannot be tried without values."""
    for group in groups:
        if "weight_decay" not in settings.optimizer:
            del group["weight_decay"]
        on_meta = [nn.Parameter(torch.empty_like(p, device="meta")) for p in group["params"]]
        for p in on_meta:
            p.grad = torch.empty_like(p)
        group["params"] = on_meta
    try:
        optimizer = instantiate({k: v for k, v in settings.optimizer.items() if k not in WITHOUT_CPU}, groups)
        optimizer.step()
    except Exception:
        return None
    kept = [value for state in optimizer.state.values() for value in state.values()]
    return sum(value.numel() * size for value in kept if isinstance(value, Tensor) and value.dim())
