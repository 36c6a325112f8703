"""From the metrics that a workload lists to those that its trials measure."""

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from harness.objectives.metrics.class_counts import CLASS_METRICS
from harness.objectives.metrics.means import HITS, cross_entropy_sums, of_cross_entropy
from harness.objectives.metrics.metric import MeanMetric, Metric
from harness.objectives.metrics.own import own_metric
from harness.objectives.metrics.ranking import RANKING_METRICS
from harness.objectives.metrics.regression import REGRESSION_METRICS
from harness.objectives.objective import Objective
from harness.plan.imports import user_code
from harness.plan.instantiate import build_arguments, check_arguments, instantiate, resolve
from harness.plan.metrics import OWN_KEYS, Listed, measured_names, metric_name

NATS = ("cross_entropy", "fused_cross_entropy", "nll")  # losses that are the cross-entropy of every target in nats


def metrics_of(objective: Objective, loss: Listed, listed: Sequence[Listed]) -> list[Metric]:
    """The loss, then every metric that is measured with it, in the order of their names in journals."""
    entropy = "loss" if loss in NATS else cross_entropy_sums
    known = [*HITS, *CLASS_METRICS, *RANKING_METRICS, *REGRESSION_METRICS, *of_cross_entropy(entropy)]
    found: dict[str, Metric] = {metric.name: metric for metric in known}
    found |= {name: MeanMetric(name, name) for name in objective.metrics}  # in one pass with the loss
    for metric in listed:
        if not isinstance(metric, str):
            found[metric_name(metric)] = own_metric(metric_name(metric), made_metric(metric))
    return [found[name] for name in (measured_names(loss, listed) if listed else objective.metrics)]


def made_metric(spec: Mapping[str, Any]) -> Any:
    """The instance of a metric's class, or the function with its arguments filled in; UserError where that fails."""
    own = {"_target_": spec["_target_"], **{key: value for key, value in spec.items() if key not in OWN_KEYS}}
    target = resolve(own)
    if not inspect.isclass(target):
        check_arguments(own, None, None)
        return partial(target, **build_arguments(own))
    with user_code(f"metric {spec['_target_']} cannot be made"):
        return instantiate(own)
