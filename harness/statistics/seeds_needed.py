"""How many seeds per arm would settle an undecided comparison: a range, since one study knows its ratio roughly.

Settled means that the interval excludes 1 or lies within the margin. `low` settles it with power 0.8 where the ratio is
the easiest of its central 50 % interval and the spread is as measured; `high` does for every ratio of that interval
with the spread at its 80 % upper limit. Simulated, studies that run `high` seeds come to a verdict in more than 80 %,
whatever the ratio (docs/statistics.md).
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from harness.statistics.estimates import LEVEL
from harness.statistics.two_sample import Difference

Array = NDArray[np.float64]

POWER = 0.8
RATIOS = 0.5  # central share of the ratio's distribution that the range allows for
SPREADS = 0.8  # one-sided limit of the spread that its upper end allows for
MOST_SEEDS = 1_000  # beyond, "more seeds" is no advice
COUNTS = np.unique(np.concatenate([np.arange(2, 40), np.geomspace(40, MOST_SEEDS, 80).round()]))  # seeds tried
MEASURED = (np.arange(15) + 0.5) / 15  # quantiles of the spread that the next study will measure
DEGREES = (2 * COUNTS - 2)[:, None]
SPREAD_RATIOS = np.sqrt(special.chdtri(DEGREES, 1 - MEASURED) / DEGREES)  # measured over true [COUNTS, MEASURED]


@dataclass(frozen=True)
class SeedsNeeded:
    """Per arm; `high` is infinite where no number up to 1,000 is sure to settle it."""

    low: int
    high: float

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"more than {self.low}"
        return f"{self.low}" if self.low == self.high else f"{self.low} to {self.high:.0f}"


def seeds_needed(
    found: Difference, log_sd: float, degrees: float, log_margin: float, level: float = LEVEL
) -> SeedsNeeded:
    """For a difference whose trials have the spread `log_sd`, known with `degrees` of freedom; `level` is two-sided."""
    half = float(special.stdtrit(found.degrees, (1 + RATIOS) / 2)) * found.error
    ratios = found.log_ratio + half * np.linspace(-1, 1, 21)
    highest_sd = log_sd * math.sqrt(degrees / float(special.chdtri(degrees, SPREADS)))
    low = float(_seeds(ratios, log_sd, log_margin, level).min())
    high = float(_seeds(ratios, highest_sd, log_margin, level).max())
    return SeedsNeeded(int(min(low, MOST_SEEDS)), high)


def seeds_to_settle(log_ratio: float, log_sd: float, log_margin: float, level: float = LEVEL) -> float:
    """Seeds per arm with power 0.8 for one known ratio and spread; +infinity beyond 1,000."""
    if not (math.isfinite(log_ratio) and log_sd >= 0):
        return math.nan
    return float(_seeds(np.array([log_ratio]), log_sd, log_margin, level)[0])


def _seeds(log_ratios: Array, log_sd: float, log_margin: float, level: float) -> Array:
    """The fewest of COUNTS from which on every count has the power, for each ratio; infinite where none has."""
    is_enough = _power(log_ratios, log_sd, log_margin, level) >= POWER
    from_here = np.logical_and.accumulate(is_enough[:, ::-1], axis=1)[:, ::-1]
    return np.where(from_here.any(axis=1), COUNTS[from_here.argmax(axis=1)], math.inf)


def _power(log_ratios: Array, log_sd: float, log_margin: float, level: float) -> Array:
    """Chance of a verdict [ratios, COUNTS]: the measured ratio is normal, and the interval's half width h varies with
    the measured spread. Undecided: the ratio is within h of 1 and of the margin."""
    error = log_sd * np.sqrt(2 / COUNTS)
    if log_sd == 0:
        return np.ones((len(log_ratios), len(COUNTS)))
    far = _quantiles(level)[:, None] * error[:, None] * SPREAD_RATIOS
    near = np.maximum(log_margin - far, 0.0)
    may_fail = far > near  # [COUNTS, MEASURED]
    far, near, scale = far[may_fail], near[may_fail], np.broadcast_to(error[:, None], far.shape)[may_fail]
    centre = log_ratios[:, None]

    def below(place: Array) -> Array:
        return special.ndtr((place - centre) / scale)

    undecided = np.zeros((len(log_ratios), *may_fail.shape))
    undecided[:, may_fail] = below(far) - below(near) + below(-near) - below(-far)
    return 1 - undecided.mean(axis=2)


@functools.lru_cache
def _quantiles(level: float) -> Array:
    """Of Student's t for each of COUNTS."""
    return special.stdtrit(2 * COUNTS - 2, 1 - level / 2)
