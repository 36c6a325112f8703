"""What a metric is: a state that takes batches on each rank, is reduced over ranks exactly, and gives one number."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from harness.plan.errors import UserError

Sums = Callable[[Any, Any], tuple[Tensor, Tensor | float]]  # of outputs and targets: a sum and what divides it
DTYPES = (  # of a tensor that ranks exchange
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
)
INSTEAD = "take it out of workload.metrics, or choose another"  # of a metric that does not fit
MOST_DIMENSIONS = 8
ALIGNMENT = 8  # bytes


class Ranks(Protocol):
    """The collectives of harness.train.world.World that a reduction needs."""

    @property
    def size(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    def sum(self, tensor: Tensor) -> Tensor: ...
    def maximum(self, tensor: Tensor) -> Tensor: ...
    def gather(self, tensor: Tensor) -> Tensor: ...


class StatefulMetric(Protocol):
    """One number of a split; all ranks must call `reduce` together, also those that had no example."""

    @property
    def name(self) -> str: ...

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """UserError unless the metric can be taken of such outputs and targets."""
        ...

    def start(self, device: torch.device) -> Any:
        """The state before any example."""
        ...

    def update(self, state: Any, outputs: Tensor, targets: Tensor) -> Any:
        """The state with the examples of one batch added."""
        ...

    def reduce(self, state: Any, ranks: Ranks) -> Any:
        """The state of all ranks' examples, on every rank."""
        ...

    def value(self, state: Any) -> float:
        """nan where no example gives the metric a value."""
        ...


class Alone:
    """The only rank."""

    size = 1
    device = torch.device("cpu")

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def maximum(self, tensor: Tensor) -> Tensor:
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        return tensor[None]


def misfit(metric: str, needs: str, outputs: Tensor, targets: Tensor) -> UserError:
    """What to raise where a metric cannot be taken of such outputs and targets."""
    kind = "floating" if targets.is_floating_point() else "integer"
    return UserError(
        f"metric {metric} needs {needs}; here outputs are {list(outputs.shape)} and {kind} targets "
        f"{list(targets.shape)}: {INSTEAD}"
    )


def gather_unpadded(tensor: Tensor | None, ranks: Ranks) -> list[Tensor]:
    """Every rank's tensor in the order of ranks, bit for bit, whatever its shape; ranks that give None are left out."""
    if ranks.size == 1:
        return [] if tensor is None else [tensor]
    header = torch.full((MOST_DIMENSIONS + 2,), -1, dtype=torch.int64, device=ranks.device)
    data = torch.zeros(0, dtype=torch.uint8, device=ranks.device)
    if tensor is not None:
        described = [DTYPES.index(tensor.dtype), tensor.dim(), *tensor.shape]
        header[: len(described)] = torch.tensor(described, device=ranks.device)
        data = tensor.detach().to(ranks.device).contiguous().flatten().view(torch.uint8)
    headers = ranks.gather(header).tolist()
    longest = int(ranks.maximum(torch.tensor(-(-len(data) // ALIGNMENT) * ALIGNMENT, device=ranks.device)))
    padded = torch.zeros(longest, dtype=torch.uint8, device=ranks.device)
    padded[: len(data)] = data
    found = []
    for (code, dimensions, *shape), part in zip(headers, ranks.gather(padded), strict=True):
        if code >= 0:
            dtype, sizes = DTYPES[code], shape[:dimensions]
            count = torch.Size(sizes).numel() * dtype.itemsize
            found.append(part[:count].view(dtype).reshape(sizes))
    return found


class MeanMetric:
    """A sum over examples divided once by their count; all means of an evaluation are reduced together."""

    def __init__(
        self,
        name: str,
        sums: str | Sums,
        check: Callable[[Any, Any], object] | None = None,
        of_mean: Callable[[float], float] = float,
    ) -> None:
        self.name = name
        self.sums = sums  # a name: of the loss's own scores; several metrics may have the same, which is taken once
        self._check = check
        self._of_mean = of_mean

    def check(self, outputs: Any, targets: Any) -> None:
        """As StatefulMetric.check."""
        if self._check is not None:
            self._check(outputs, targets)
        elif not isinstance(self.sums, str):
            self.sums(outputs, targets)

    def value(self, total: float, count: float) -> float:
        """nan where no example counts."""
        return self._of_mean(total / count) if count else torch.nan


Metric = MeanMetric | StatefulMetric
