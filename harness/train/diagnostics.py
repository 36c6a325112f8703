"""What an evaluation row reports about the updates before it: gradient norm, size of the update, clipping.

Everything is measured on the device and read once per evaluation. Norms are those of the interval's last update, so
that the others cost nothing; clipping is counted at every update.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm


class Diagnostics:
    """Observes the updates of one model; the same on every rank, because gradients, or their norms, are."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        clip_norm: float | None,
        whole_norms: Callable[[Tensor], Tensor] = lambda norms: norms,
    ) -> None:
        """`whole_norms`: of norms over the `parameters` that this rank has makes those over all ranks."""
        self.clip_norm = clip_norm
        self._whole_norms = whole_norms
        trained = [(name, p) for name, p in parameters.items() if p.requires_grad]
        self._parameters = [p for _, p in trained]
        self._groups: dict[str, list[int]] = {}  # layer group -> indices into `_parameters`
        for index, group in enumerate(layer_groups([name for name, _ in trained])):
            self._groups.setdefault(group, []).append(index)
        self._before: list[Tensor] | None = None
        self._norms: Tensor | None = None  # [1]: the gradient's; after the step [1 + 2 P]: also updates', parameters'
        device = self._parameters[0].device if self._parameters else torch.device("cpu")
        self.clipped = torch.zeros((), dtype=torch.int64, device=device)
        self.updates = 0  # since the last reading

    def before_step(self, last: bool) -> None:
        """Call between the backward pass and the optimizer's step: clips by global norm where that is set and, where
        this update is the `last` of its interval, records the norm and the weights."""
        self._norms = None
        norm: Tensor | None = None
        if last or self.clip_norm is not None:
            norm = self._whole_norms(get_total_norm([p.grad for p in self._parameters if p.grad is not None]))
        if norm is not None and self.clip_norm is not None:
            clip_grads_with_norm_(self._parameters, self.clip_norm, norm)
            self.clipped += norm > self.clip_norm
        if last and norm is not None:
            self._norms = norm.detach()[None]
            self._before = [p.detach().clone() for p in self._parameters]

    def after_step(self) -> None:
        """Call after the optimizer's step, if it was made."""
        self.count(self.norms())

    def norms(self) -> Tensor | None:
        """What `count` needs of an update after its step; None if it is not the last of its interval."""
        if self._before is None or self._norms is None:
            return None
        # One call for all parameters; `read` combines their norms by layer group on the host. In place, since a second
        # copy of the weights would be the peak of the memory.
        sizes = torch._foreach_norm(self._before)  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_sub_(self._before, [p.detach() for p in self._parameters])  # pyright: ignore[reportPrivateImportUsage]
        moved = torch._foreach_norm(self._before)  # pyright: ignore[reportPrivateImportUsage]
        self._before = None
        return torch.cat([self._norms, self._whole_norms(torch.stack([*moved, *sizes]))])

    def count(self, norms: Tensor | None) -> None:
        """Count an update, and keep what was measured of it."""
        self.updates += 1
        self._norms = norms

    def skip_step(self) -> None:
        """Call where the step was skipped: there is no update to measure."""
        self._norms = self._before = None

    def read(self) -> dict[str, Any]:
        """The interval's numbers, as JSON values; None if not finite or not measured. Starts a new interval.

        `update_ratio`: |update| / |parameters before it| of each layer group; about 1e-3 is a common rule of thumb.
        """
        gradient, *norms = self._norms.tolist() if self._norms is not None else [math.nan]
        ratios = dict.fromkeys(self._groups)
        moved, sizes = norms[: len(norms) // 2], norms[len(norms) // 2 :]
        for name, indices in self._groups.items() if norms else ():
            update, size = (math.hypot(*(values[index] for index in indices)) for values in (moved, sizes))
            ratios[name] = _finite(update / size if size else math.nan)
        row: dict[str, Any] = {"gradient_norm": _finite(gradient), "update_ratio": ratios}
        if self.clip_norm is not None:
            row["clip_fraction"] = _finite(self.clipped.item() / self.updates if self.updates else math.nan)
        self.clipped.zero_()
        self.updates, self._norms = 0, None
        return row

    def state(self) -> dict[str, Any]:
        return {"clipped": int(self.clipped.item()), "updates": self.updates}

    def restore(self, state: dict[str, Any]) -> None:
        self.clipped.fill_(state["clipped"])
        self.updates = state["updates"]


def layer_groups(names: Sequence[str]) -> list[str]:
    """The layer each parameter is reported under: its name up to the first number (`model.layers.3`), else its first
    part, and the next one too where the first holds numbered layers deeper down (`model.norm`)."""
    parts = [name.split(".") for name in names]
    depths = [next((i for i, part in enumerate(path) if i and part.isdigit()), None) for path in parts]
    wrappers = {path[0] for path, depth in zip(parts, depths, strict=True) if depth is not None and depth > 1}
    return [
        ".".join(path[: depth + 1] if depth is not None else path[: 2 if path[0] in wrappers else 1])
        for path, depth in zip(parts, depths, strict=True)
    ]


def memory_peak_bytes(device: torch.device) -> int:
    """Peak of the memory allocated on a GPU since the trial began (see allocator.begin_peak); on the CPU, of this
    process's resident memory since the process began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
