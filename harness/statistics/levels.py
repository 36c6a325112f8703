"""What each arm of a sweep costs on the log, with an error that suits many arms of few seeds.

The variance of one arm is shrunk towards the pooled one, which counts as 4 more degrees of freedom; but an arm that
looks noisier than the rest keeps its own. Simulated in benchmarks/decision.py: the pooled variance alone misses where
the best arm is the noisiest, its own alone has no degrees of freedom to speak of.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from harness.plan.outcome import Outcome
from harness.statistics.estimates import Observation, PooledSpread, pooled_log_spread, with_outcome

Key = TypeVar("Key", bound=Hashable)  # names an arm: a TBS, or a rule with a TBS

PRIOR_DEGREES = 4  # of the pooled variance, when it is mixed with an arm's own


@dataclass(frozen=True)
class Level:
    """Mean log place of one arm."""

    mean: float  # where `is_bound`: at least this; infinity where every trial diverged
    variance: float  # of `mean`; infinity where no arm of the sweep has replicates
    degrees: float  # of that variance
    n: int
    is_bound: bool  # a trial missed


def levels(arms: Mapping[Key, Sequence[Observation]]) -> dict[Key, Level]:
    """The level of every arm with data; places are bracket middles, a miss counts as its stop.

    Trials that all crossed at one evaluation share its rounding error: the variance of a mean is never below that.
    """
    data = {key: kept for key, trials in arms.items() if (kept := with_outcome(trials))}
    spread = pooled_log_spread(data.values())
    return {key: _level(trials, spread) for key, trials in data.items()}


def trial_variance(trials: Sequence[Observation], spread: PooledSpread) -> float:
    """Of the log place of one trial of an arm in which all reached: shrunk, or the arm's own where that is larger."""
    n, pooled = len(trials), spread.sd**2
    if n < 2:
        return pooled
    own = float(np.var(np.log([o.middle for o in trials]), ddof=1))
    return max(own, (PRIOR_DEGREES * pooled + (n - 1) * own) / (PRIOR_DEGREES + n - 1))


def _level(trials: Sequence[Observation], spread: PooledSpread) -> Level:
    n, is_bound = len(trials), not all(o.reached for o in trials)
    finite = [o for o in trials if o.outcome is not Outcome.DIVERGED]
    places = [o.middle if o.reached else o.at_least for o in finite]
    mean = float(np.mean([math.log(p) if p > 0 else -math.inf for p in places])) if places else math.inf
    variance, grid = math.inf, 0.0
    if spread.degrees_of_freedom:
        variance = (spread.sd**2 if is_bound else trial_variance(trials, spread)) / max(len(places), 1)
    if not is_bound:
        grid = float(np.mean([(o.width / o.middle) ** 2 for o in trials])) / 12
    degrees = min(PRIOR_DEGREES + n - 1, spread.degrees_of_freedom)
    return Level(mean, max(variance, grid), degrees, n, is_bound)
