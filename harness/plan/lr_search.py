"""The search for the best LR at one total batch size, as a race on a log grid that every total batch size shares.

Index i of the grid is base LR x 2^(i/2). A search begins with the even indices of a range (factor 2), extends it by a
factor of 2 where its winner is at an edge, then adds the odd indices next to its winners (factor sqrt 2). Every step is
a round of fixed membership that depends on medians alone, so the rounds are the same whatever runs in parallel.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.plan.errors import UserError
from harness.plan.racing import Race, Standing

OCTAVE = 2  # steps of the grid in a factor of 2
StandingOf = Callable[[int, int], Standing]  # (grid index, seed) -> what is known about that trial


@dataclass(frozen=True)
class LrGrid:
    """The grid that all searches share: `lowest` to `highest` are the even indices they begin with."""

    base_lr: float
    lowest: int
    highest: int

    @staticmethod
    def spanning(base_lr: float, low: float, high: float) -> "LrGrid":
        """The LRs base LR x 2^n from `low` to `high`; UserError unless there are at least three."""
        if not (math.isfinite(low) and math.isfinite(high) and 0 < low < high):
            raise UserError(f"question.lr_range must be two numbers 0 < low < high, not [{low:g}, {high:g}]")
        slack = 1e-9  # so that a range written in decimals includes its own ends
        first, last = math.ceil(math.log2(low / base_lr) - slack), math.floor(math.log2(high / base_lr) + slack)
        if last - first < 2:
            raise UserError(
                f"question.lr_range [{low:g}, {high:g}] has fewer than 3 LRs of the grid base LR {base_lr:g} x 2^n: "
                f"use at least [{low:g}, {4 * base_lr * 2.0**first:g}]"
            )
        return LrGrid(base_lr, OCTAVE * first, OCTAVE * last)

    def lr(self, index: int) -> float:
        return self.base_lr * 2 ** (index / OCTAVE)

    @property
    def coarse(self) -> list[int]:
        return list(range(self.lowest, self.highest + 1, OCTAVE))


@dataclass(frozen=True)
class LrSearch:
    """The state of one search."""

    indices: tuple[int, ...]  # of the grid, in the order in which they were asked for
    race: Race  # candidates are indices; all rounds so far are one race, whose cap only falls
    is_over: bool

    @property
    def winner(self) -> int | None:
        """The lower middle of the indices that share the best median; None while open, or if none reached."""
        winners = sorted(self.race.winners)
        return winners[(len(winners) - 1) // 2] if self.is_over and winners else None

    @property
    def at_edge(self) -> bool:
        """Whether the best median is still shared by an end of the range: the optimum may lie beyond."""
        return _at_edges(self.race.winners, self.indices) != (False, False)

    @property
    def to_finish(self) -> list[int]:
        """The winner and its neighbours among the indices tried, whose stopped seeds are run to their own end."""
        if self.winner is None:
            return []
        tried = sorted(self.indices)
        rank = tried.index(self.winner)
        return tried[max(rank - 1, 0) : rank + 2]


def search_lr(
    grid: LrGrid, seeds: Sequence[int], standing: StandingOf, *, predicted: float, extensions: int
) -> LrSearch:
    """Replay a search from what is known about its trials.

    `predicted`: candidates nearest to this index run first, so that the cap falls early. `extensions`: octaves by which
    the range may grow at either end.
    """

    def race_of(indices: Sequence[int]) -> Race:
        return Race({index: [standing(index, seed) for seed in seeds] for index in indices})

    indices = sorted(grid.coarse, key=lambda index: (abs(index - predicted), index))
    reach = (grid.lowest - OCTAVE * extensions, grid.highest + OCTAVE * extensions)
    race = race_of(indices)
    while race.is_settled:
        more = _next_round(indices, race.winners, reach)
        if not more:
            return LrSearch(tuple(indices), race, True)
        indices = [*indices, *more]
        race = race_of(indices)
    return LrSearch(tuple(indices), race, False)


def _next_round(indices: Sequence[int], winners: Sequence[int], reach: tuple[int, int]) -> list[int]:
    """The untried candidates that the winners call for; none when the search is over."""
    low, high = min(indices), max(indices)
    at_low, at_high = _at_edges(winners, indices)
    beyond = [
        *([low - OCTAVE] if at_low and low > reach[0] else []),
        *([high + OCTAVE] if at_high and high < reach[1] else []),
    ]
    if beyond or not winners:
        return beyond
    between = range(max(low, min(winners) - 1), min(high, max(winners) + 1) + 1)
    return [index for index in between if index not in indices]


def _at_edges(winners: Sequence[int], indices: Sequence[int]) -> tuple[bool, bool]:
    return min(indices) in winners, max(indices) in winners
