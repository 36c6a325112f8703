"""Whether what the target costs rises with total batch size, judged from the trials themselves, misses included.

Every trial is scored by how many others it is known to come after, less those it comes before (Gehan 1965): two trials
are ordered where one crossed before the other crossed or was stopped. An arm that missed is late where it was watched
for longer than the others took, and says nothing where it was stopped before. The scores are correlated with the order
of the arms (Cuzick 1985) and judged by permuting the trials over the arms.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from harness.plan.outcome import Outcome
from harness.statistics.estimates import LEVEL, Observation, with_outcome

DRAWS = 10_000
MOST_ENUMERATED = 7  # trials up to which every order is tried
SAME = 1e-9  # places closer than this, relative to their size, are one


class Direction(StrEnum):
    """Of the cost with TBS."""

    RISING = "rising"
    FALLING = "falling"
    FLAT = "flat"


@dataclass(frozen=True)
class Trend:
    """`p` is two-sided; nan below two arms with data."""

    p: float
    direction: Direction  # of the data, established or not
    can_decide: bool  # whether so many trials could show a trend at 5 %, and some are replicates, not published means

    @property
    def established(self) -> bool:
        return self.p < LEVEL

    @property
    def rises(self) -> bool:
        """Whether a rise is established."""
        return self.established and self.direction is Direction.RISING


def rise(arms: Mapping[int, Sequence[Observation]]) -> Trend:
    """The trend of the places over {TBS: trials}, in a unit that is comparable between TBS (examples, epochs)."""
    trials = [(size, trial) for size in sorted(arms) for trial in with_outcome(arms[size])]
    before = _before([trial for _, trial in trials])
    says = before.any(axis=0) | before.any(axis=1)  # a trial that no other is ordered with would only dilute them
    scores = (before.sum(axis=0) - before.sum(axis=1))[says].astype(float)
    sizes, order, counts = np.unique([size for size, _ in trials], return_inverse=True, return_counts=True)
    order = order[says] - order[says].mean() if says.any() else np.empty(0)
    if len(sizes) < 2:
        return Trend(math.nan, Direction.FLAT, False)
    observed = float(order @ scores)
    if len(order) <= MOST_ENUMERATED:  # also none: every trial tied
        sums = np.array(list(permutations(order))) @ scores
        p = float(np.mean(np.abs(sums) >= abs(observed) - SAME))
    else:  # the same draws from call to call; the given order counts as one of them
        draws = np.random.default_rng(0).permuted(np.tile(order, (DRAWS, 1)), axis=1) @ scores
        p = float(1 + np.sum(np.abs(draws) >= abs(observed) - SAME)) / (1 + DRAWS)
    arrangements = math.factorial(len(trials))
    for count in counts.tolist():
        arrangements //= math.factorial(count)
    direction = Direction.FLAT if abs(observed) < SAME else Direction.RISING if observed > 0 else Direction.FALLING
    return Trend(p, direction, bool(max(counts) > 1 and 2 / arrangements < LEVEL))


def _before(trials: Sequence[Observation]) -> NDArray[np.bool_]:
    """[i, j]: whether trial i is known to cross before trial j."""
    middles, places = np.array([o.middle for o in trials]), np.array([o.place for o in trials])
    certain = np.array([_not_before(o) for o in trials])
    firsts = np.array([o.place if o.reached and not o.has_log else -math.inf for o in trials])
    crossed = np.isfinite(places)
    with np.errstate(invalid="ignore"):
        both = crossed[:, None] & crossed[None, :] & (middles[:, None] < middles[None, :] * (1 - SAME))
    both &= places[None, :] > firsts[:, None] * (1 + SAME)  # met at the first evaluation: anywhere before it
    later = crossed[:, None] & ~crossed[None, :] & (places[:, None] < certain[None, :] * (1 - SAME))
    return both | later


def _not_before(trial: Observation) -> float:
    """Where a trial that missed may still cross; one that diverged never does."""
    return math.inf if trial.outcome is Outcome.DIVERGED else trial.at_least
