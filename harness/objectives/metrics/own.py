"""A metric of the user's own by `_target_`: a torchmetrics Metric, or a function of outputs and targets."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from harness.objectives.metrics.labels import NEEDS, Labels, kind_of, read_labels, tied
from harness.objectives.metrics.metric import MeanMetric, Metric, Ranks, gather_unpadded
from harness.objectives.objective import IGNORED
from harness.plan.errors import UserError
from harness.plan.metrics import MetricKind


def own_metric(name: str, made: Any) -> Metric:
    """What a `_target_` gave, as a metric: a torchmetrics Metric, or a callable of (outputs, targets) that returns
    (sum, count), or a value for each example. UserError for anything else."""
    if _is_torchmetric(made):
        return TorchMetric(name, made)
    if callable(made) and not hasattr(made, "compute"):
        return MeanMetric(name, lambda outputs, targets: _sum_and_count(name, made(outputs, targets)))
    raise UserError(
        f"metric {name} must be a torchmetrics Metric, or a function of outputs and targets, not a "
        f"{type(made).__name__}"
    )


def declared_kind(made: Any) -> MetricKind:
    """Direction, if a metric declares one as torchmetrics do (`higher_is_better`), else empty; and a range for targets.

    Only the best value is taken from torchmetrics: their worst one is for plots.
    """
    higher = getattr(made, "higher_is_better", None)
    low, high = getattr(made, "plot_lower_bound", None), getattr(made, "plot_upper_bound", None)
    if higher is None:
        return MetricKind("", -torch.inf, torch.inf)
    if higher:
        return MetricKind("max", -torch.inf, torch.inf if high is None else high)
    return MetricKind("min", -torch.inf if low is None else low, torch.inf)


def _is_torchmetric(made: Any) -> bool:
    return any(cls.__module__ == "torchmetrics.metric" and cls.__name__ == "Metric" for cls in type(made).__mro__)


def _sum_and_count(name: str, returned: Any) -> tuple[Tensor, Tensor | int]:
    if isinstance(returned, Tensor) and returned.dim() > 0:
        return returned.double().sum(), returned.numel()
    if isinstance(returned, tuple) and len(returned) == 2:
        total, count = returned
        return torch.as_tensor(total), count
    raise UserError(
        f"metric {name} must return (sum, count), or a tensor with a value for each example, not "
        f"{'a mean' if isinstance(returned, Tensor | float) else f'a {type(returned).__name__}'}"
    )


class TorchMetric:
    """A torchmetrics Metric, whose states are reduced over ranks by us: its own synchronisation does not know ranks
    without examples."""

    def __init__(self, name: str, metric: Any) -> None:
        self.name = name
        self.metric = metric
        self._reductions: dict[str, Callable[[list[Tensor]], Tensor]] = {}
        if any(_is_torchmetric(child) for child in metric.children()):
            raise UserError(f"metric {name} wraps other metrics, whose states are not reduced over ranks: name them")
        for state, reduction in metric._reductions.items():
            reduce = _reduction(reduction, isinstance(metric._defaults[state], list))
            if reduce is None:
                raise UserError(
                    f"metric {name} is not exact over ranks: its state {state} is a mean over ranks, or a list that is "
                    "not concatenated: use sums and counts as states"
                )
            self._reductions[state] = reduce

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        state = self.start(outputs.device)
        if self._family == "classification" and kind_of(outputs, targets) is None:
            read_labels(outputs, targets, self.name, tuple(NEEDS))
        self.value(self.update(state, outputs, targets))

    @property
    def _family(self) -> str:
        """classification | regression | anything else that torchmetrics has, or the user's own."""
        parts = type(self.metric).__module__.split(".")
        return parts[1] if parts[0] == "torchmetrics" and len(parts) > 1 else "own"

    def start(self, device: torch.device) -> Any:
        state = deepcopy(self.metric)
        state.reset()
        state.sync_on_compute = state._to_sync = False
        return state.to(device).set_dtype(torch.float64)

    def update(self, state: Any, outputs: Tensor, targets: Tensor) -> Any:
        with _quiet():
            state.update(*self._arguments(outputs, targets))
        return state

    def _arguments(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Classification: probabilities and targets of elements that count, flat; regression: of the targets' shape in
        float64; anything else as the model and the data give them."""
        if self._family == "classification" and kind_of(outputs, targets) is not None:
            labels = read_labels(outputs, targets, self.name, tuple(NEEDS))
            return _probabilities(labels), labels.targets
        if targets.dim() == 1 and not targets.is_floating_point():
            counts = targets != IGNORED
            outputs, targets = outputs[counts], targets[counts]
        if self._family == "regression" and outputs.numel() == targets.numel():
            return outputs.reshape(targets.shape).double(), targets.double()
        return outputs, targets

    def reduce(self, state: Any, ranks: Ranks) -> Any:
        if ranks.size == 1:
            return state
        has_examples = state.update_called
        for name, reduce in self._reductions.items():
            own = getattr(state, name)
            is_list = isinstance(own, list)
            if is_list:
                own = torch.cat([value.reshape(1) if value.dim() == 0 else value for value in own]) if own else None
            parts = gather_unpadded(own if has_examples else None, ranks)
            setattr(state, name, parts if is_list else parts[0] if len(parts) == 1 else reduce(parts))
        state._update_count = max(state._update_count, 1)
        state._computed = None
        return state

    def value(self, state: Any) -> float:
        with _quiet():
            found = state.compute()
        if not isinstance(found, Tensor | float | int) or (isinstance(found, Tensor) and found.numel() != 1):
            given = f"{found.numel()} numbers" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise UserError(f"metric {self.name} must give one number, not {given}: give it an average, such as macro")
        return float(found)


def _reduction(declared: Any, is_list: bool) -> Callable[[list[Tensor]], Tensor] | None:
    """How the states of ranks become one, by torchmetrics' `dist_reduce_fx`; None where that is not exact."""
    from torchmetrics.utilities import data

    if is_list:
        return torch.cat if declared is data.dim_zero_cat else None
    if declared is None:
        return torch.stack  # the metric's own compute merges them
    known: dict[Any, Callable[[list[Tensor]], Tensor] | None] = {
        data.dim_zero_sum: lambda parts: torch.stack(parts).sum(0),
        data.dim_zero_max: lambda parts: torch.stack(parts).amax(0),
        data.dim_zero_min: lambda parts: torch.stack(parts).amin(0),
        data.dim_zero_cat: torch.cat,
        data.dim_zero_mean: None,
    }
    return known[declared] if declared in known else lambda parts: declared(torch.stack(parts))


def _probabilities(labels: Labels) -> Tensor:
    """In float64; torchmetrics would otherwise tell logits from probabilities batch by batch."""
    scores = labels.scores.double()
    return tied(scores.softmax(-1) if labels.kind == "multiclass" else scores.sigmoid())


@contextmanager
def _quiet() -> Iterator[None]:
    """torchmetrics warns of what is normal early in training, such as a class that is never predicted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
