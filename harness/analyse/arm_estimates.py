"""What an arm's trials say beyond their median: share that reaches, budget to plan with, means that keep misses."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.statistics.estimates import (
    Observation,
    PooledSpread,
    QuantileEstimate,
    ReachRate,
    quantile_estimate,
    reach_rate,
    with_outcome,
)
from harness.statistics.prediction import PredictionBound, prediction_bound
from harness.statistics.rcp import OlympicMean, olympic_mean
from harness.statistics.survival import RestrictedMean, restricted_mean


@dataclass(frozen=True)
class ArmEstimates:
    """Places are in examples."""

    reach: ReachRate  # Clopper-Pearson, Wilson beside it
    lower_quartile: QuantileEstimate
    upper_quartile: QuantileEstimate
    percentile_90: QuantileEstimate  # of the trials that were run; a new one exceeds it more often than 10 %
    budget: PredictionBound  # what a new run stays below with probability 0.9: put this in your budget
    restricted: RestrictedMean  # of min(place, budget): a miss costs the whole budget
    olympic: OlympicMean  # MLPerf's, from five trials on


def arm_estimates(observations: Sequence[Observation], spread: PooledSpread | None, cap: float) -> ArmEstimates:
    """Of one arm; `cap` is its budget in examples."""
    return ArmEstimates(
        reach=reach_rate(observations),
        lower_quartile=quantile_estimate(observations, 0.25, spread),
        upper_quartile=quantile_estimate(observations, 0.75, spread),
        percentile_90=quantile_estimate(observations, 0.9, spread),
        budget=prediction_bound(observations, spread),
        restricted=restricted_mean(observations, cap),
        olympic=olympic_mean([observation.place for observation in with_outcome(observations)]),
    )
