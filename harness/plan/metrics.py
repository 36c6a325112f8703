"""What is known of the metrics by name: direction, range, and which of them a workload measures."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from harness.plan.errors import UserError

Listed = str | Mapping[str, Any]  # a metric as a configuration lists it: a name, or a mapping with a _target_


class MetricKind(NamedTuple):
    """The direction in which a metric improves, and the values that it can take."""

    mode: str  # max | min
    low: float
    high: float


METRICS = {
    "loss": MetricKind("min", -math.inf, math.inf),  # a loss of the user's own may be negative
    "accuracy": MetricKind("max", 0, 1),
    "top5": MetricKind("max", 0, 1),
    "balanced_accuracy": MetricKind("max", 0, 1),
    "f1_macro": MetricKind("max", 0, 1),
    "f1_weighted": MetricKind("max", 0, 1),
    "auroc": MetricKind("max", 0, 1),
    "average_precision": MetricKind("max", 0, 1),
    "mean_iou": MetricKind("max", 0, 1),
    "mse": MetricKind("min", 0, math.inf),
    "mae": MetricKind("min", 0, math.inf),
    "r2": MetricKind("max", -math.inf, 1),
    "perplexity": MetricKind("min", 1, math.inf),
    "bits_per_byte": MetricKind("min", 0, math.inf),
}
# What is measured with a loss where a workload lists no metrics.
LOSS_METRICS: dict[str, tuple[str, ...]] = dict.fromkeys(("cross_entropy", "fused_cross_entropy", "nll"), ("accuracy",))
NEVER_NEGATIVE = (*LOSS_METRICS, "bce_with_logits", "ctc", "huber", "l1", "mse", "smooth_l1")  # losses
OWN_KEYS = ("_target_", "name")  # of a listed mapping: ours; the others are arguments of its class or function


def metric_name(metric: Listed) -> str:
    """The name of a listed metric in journals, tables and W&B: F1Score becomes f1_score where no `name` is given."""
    if isinstance(metric, str):
        return metric
    given = metric.get("name")
    last = str(metric["_target_"]).rpartition(".")[2]
    return str(given) if given else re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", last).lower()


def check_metrics(metrics: Sequence[Listed]) -> None:
    """UserError for unknown names, and for two metrics of one name."""
    taken: list[str] = []
    for metric in metrics:
        name = metric_name(metric)
        if isinstance(metric, str) and name not in METRICS:
            raise UserError(f"workload.metrics: there is no metric {name!r}: {choice(name, METRICS)}")
        if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII):
            raise UserError(f"workload.metrics: the name {name!r} must be letters, digits and _, like f1_macro")
        if not isinstance(metric, str) and name in METRICS:
            raise UserError(
                f"workload.metrics: {metric['_target_']} has the name of the harness's own {name}: give it another "
                f"one, like {{_target_: {metric['_target_']}, name: my_{name}}}"
            )
        if name in taken:
            raise UserError(f"workload.metrics: two metrics are called {name}: give one of them another name")
        taken.append(name)


def range_of(metric: str, loss: Listed) -> tuple[float, float]:
    """The values that one of METRICS can have."""
    _, low, high = METRICS[metric]
    return (0 if metric == "loss" and loss in NEVER_NEGATIVE else low), high


def choice(name: str, names: Collection[str]) -> str:
    """What to do about an unknown name."""
    near = get_close_matches(name, names, 1)
    return f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(names)}"


def measured_names(loss: Listed, metrics: Sequence[Listed]) -> tuple[str, ...]:
    """What every evaluation measures: the loss first; where no metrics are listed, those of the loss."""
    listed = [metric_name(metric) for metric in metrics or _of_loss(loss)]
    return tuple(dict.fromkeys(["loss", *listed]))


def with_needed(loss: Listed, metrics: Sequence[Listed], needed: Sequence[str]) -> tuple[Listed, ...]:
    """The listed metrics and those that the targets name; () stays () where the metrics of the loss are enough."""
    known = measured_names(loss, metrics)
    missing = [name for name in dict.fromkeys(needed) if name not in known]
    if not missing:
        return tuple(metrics)
    return (*(metrics or _of_loss(loss)), *missing)


def _of_loss(loss: Listed) -> tuple[str, ...]:
    return LOSS_METRICS.get(loss, ()) if isinstance(loss, str) else ()
