"""The search for the shortest schedule that ends at the target: a bracket by doubling and halving, then points inside.

Lengths count evaluation intervals. Rounds have fixed membership and depend on whether lengths meet the target alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

MeetsTarget = Callable[[int], bool | None]  # None: not known yet


@dataclass(frozen=True)
class LengthSearch:
    """Where a search stands."""

    lengths: tuple[int, ...]  # in the order in which they were asked for
    bracket: (
        tuple[int, int] | None
    )  # a length that misses (0: none is shorter) and the next that meets; None: none does
    is_over: bool


def search_length(meets: MeetsTarget, *, start: int, shortest: int, longest: int, points: int) -> LengthSearch:
    """Replay a search from `start`; `points` lengths are tried between the ends of the bracket, evenly in log."""
    asked, bracket = [min(max(start, shortest), longest)], None
    while bracket is None:
        known = {length: meets(length) for length in asked}
        if None in known.values():
            return LengthSearch(tuple(asked), None, False)
        good = min((length for length, met in known.items() if met), default=None)
        if good is None and max(asked) >= longest:
            return LengthSearch(tuple(asked), None, True)
        if good is None:
            asked.append(min(2 * max(asked), longest))
        elif below := [length for length in asked if length < good]:
            bracket = max(below), good
        elif good <= shortest:
            return LengthSearch(tuple(asked), (0, good), True)
        else:
            asked.append(max(-(-good // 2), shortest))
    low, high = bracket
    inside = {round(low * (high / low) ** (i / (points + 1))) for i in range(1, points + 1)}
    asked += sorted(inside - set(asked))
    return LengthSearch(tuple(asked), bracket, all(meets(length) is not None for length in asked))
