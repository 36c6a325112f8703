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
from harness.statistics.estimates import Observation, PooledSpread, grid_variance, pooled_log_spread, with_outcome

Key = TypeVar("Key", bound=Hashable)  # names an arm: a TBS, or a rule with a TBS

PRIOR_DEGREES = 4  # of the pooled variance, when it is mixed with an arm's own


@dataclass(frozen=True)
class Level:
    """Mean log place of one arm."""

    mean: float  # infinity where every trial diverged, -infinity where one met the target before training
    variance: float  # of `mean`; infinity where no arm of the sweep has replicates
    degrees: float  # of that variance
    n: int
    is_at_least: bool  # a trial missed: the mean is at least this
    is_at_most: bool  # a trial met the target at its first evaluation: the mean is at most this

    @property
    def is_measured(self) -> bool:
        """Whether the mean is known, not only a bound."""
        return not (self.is_at_least or self.is_at_most)


def levels(arms: Mapping[Key, Sequence[Observation]]) -> dict[Key, Level]:
    """The level of every arm with data; places are bracket middles.

    A miss counts as its stop, and a target met at the first evaluation as that evaluation: it was met anywhere before.

    Trials that all crossed at one evaluation share its rounding error: the variance of a mean is never below that.
    """
    data = {key: kept for key, trials in arms.items() if (kept := with_outcome(trials))}
    spread = pooled_log_spread(data.values())
    return {key: _level(trials, spread) for key, trials in data.items()}


def trial_variance(trials: Sequence[Observation], spread: PooledSpread) -> float:
    """Of the log place of one trial of an arm all of whose trials have one: shrunk, or its own where that is larger."""
    n, pooled = len(trials), spread.sd**2
    if n < 2:
        return pooled
    own = float(np.var(np.log([o.middle for o in trials]), ddof=1))
    return max(own, (PRIOR_DEGREES * pooled + (n - 1) * own) / (PRIOR_DEGREES + n - 1))


def _level(trials: Sequence[Observation], spread: PooledSpread) -> Level:
    n, is_at_least = len(trials), not all(o.reached for o in trials)
    is_at_most = any(o.reached and not o.has_log for o in trials)
    is_measured = not (is_at_least or is_at_most)
    finite = [o for o in trials if o.outcome is not Outcome.DIVERGED]
    places = [(o.middle if o.has_log else o.place) if o.reached else o.at_least for o in finite]
    mean = float(np.mean([math.log(p) if p > 0 else -math.inf for p in places])) if places else math.inf
    variance, grid = math.inf, 0.0
    if spread.degrees_of_freedom:
        variance = (trial_variance(trials, spread) if is_measured else spread.sd**2) / max(len(places), 1)
    if is_measured:
        grid = grid_variance(trials)
    degrees = min(PRIOR_DEGREES + n - 1, spread.degrees_of_freedom)
    return Level(mean, max(variance, grid), degrees, n, is_at_least, is_at_most)
