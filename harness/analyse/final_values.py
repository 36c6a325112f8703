"""The validation metric that trials end their budget with, and its median over seeds."""

import math
from collections.abc import Iterable

from harness.analyse.crossing import metric_at
from harness.analyse.results import TrialResult
from harness.plan.outcome import Outcome
from harness.plan.target import Target
from harness.statistics.estimates import inverted_cdf


def final_value(result: TrialResult, metric: Target) -> float:
    """The metric at the last evaluation, on the deciding weights; the worst possible for a trial that diverged."""
    worst = math.inf if metric.mode == "min" else -math.inf
    if result.outcome is Outcome.DIVERGED or not result.evaluations:
        return worst
    value = metric_at(result.evaluations[-1], metric, result.settings.averaging.decide_on)
    return worst if value is None or not math.isfinite(value) else value


def median_final(results: Iterable[TrialResult], metric: Target) -> float:
    """The median of the final values, the worse of the two middle ones of an even number; nan without data."""
    values = sorted(final_value(result, metric) for result in results if result.outcome.is_data)
    return inverted_cdf(values, 0.5) if metric.mode == "max" else -inverted_cdf([-v for v in reversed(values)], 0.5)
