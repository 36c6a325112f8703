"""Racing: candidates of one search stop as soon as they can no longer win, and the winner is that of the full grid.

Places are examples seen at a trial's crossing, a miss at infinity; a candidate's score is the median of its seeds'
places (of an even number the lower middle one, an order statistic). The *cap* is the smallest complete median. It only
falls, a trial stops strictly past it, and a candidate is out when more than half of its seeds are past it. So in
whatever order trials run, every candidate that is out has a median above the final cap, and the winners and their
median are those of the full grid; which trials were stopped, and where, may differ.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Standing:
    """What is known about where one trial crosses, in examples; a trial that has not begun is `Standing()`."""

    place: float | None = None  # math.inf: never (budget or divergence); None: not known yet, or stopped before
    beyond: float = 0.0  # an open trial's crossing lies strictly beyond this

    def is_past(self, cap: float) -> bool:
        """Whether the crossing lies strictly past `cap`, wherever it is."""
        return self.beyond >= cap if self.place is None else self.place > cap


def rank_of_median(n: int) -> int:
    """Which of n ordered places is their median, counted from 1."""
    return (n + 1) // 2


def complete_median(standings: Sequence[Standing]) -> float | None:
    """The median place, or None while an open trial could still change it."""
    known = sorted(standing.place for standing in standings if standing.place is not None)
    rank = rank_of_median(len(standings))
    if len(known) < rank:
        return None
    median = known[rank - 1]
    hidden = (standing for standing in standings if standing.place is None)
    return median if all(standing.is_past(median) for standing in hidden) else None


@dataclass(frozen=True)
class Race:
    """Candidates of one search, each with the standings of its seeds; a pure function of what has been recorded."""

    candidates: Mapping[Any, Sequence[Standing]]

    @cached_property
    def cap(self) -> float:
        """The best complete median so far, in examples; infinite before the first."""
        medians = map(complete_median, self.candidates.values())
        return min((median for median in medians if median is not None), default=math.inf)

    def is_out(self, candidate: Any) -> bool:
        """Whether more than half of a candidate's seeds are past the cap."""
        return self._is_out(self.candidates[candidate], self.cap)

    @property
    def is_settled(self) -> bool:
        """Whether every candidate has its median or is out, so that nothing can change the winners."""
        cap = self.cap
        return all(complete_median(s) is not None or self._is_out(s, cap) for s in self.candidates.values())

    @property
    def winners(self) -> list[Any]:
        """The candidates with the smallest median, in their order; none before one has reached its target."""
        cap = self.cap
        if cap == math.inf:
            return []
        return [candidate for candidate, s in self.candidates.items() if complete_median(s) == cap]

    def limit(self, candidate: Any) -> float:
        """Examples from which on an open trial of a candidate stops at its next evaluation that misses the target.

        The cap; 0 for a candidate that is out, whose open trials need not begin.
        """
        return 0.0 if self.is_out(candidate) else self.cap

    @staticmethod
    def _is_out(standings: Sequence[Standing], cap: float) -> bool:
        past = sum(standing.is_past(cap) for standing in standings)
        return past > len(standings) - rank_of_median(len(standings))
