"""The search for the shortest schedule that ends at the target: a bracket by doubling and halving, then points inside.

Lengths count evaluation intervals. Rounds have fixed membership and depend only on which lengths meet the target.
"""

from collections.abc import Callable
from dataclasses import dataclass

MeetsTarget = Callable[[int], bool | None]  # None: not known yet


@dataclass(frozen=True)
class LengthSearch:
    """The state of a search."""

    lengths: tuple[int, ...]  # in the order in which they were asked for
    # A length that misses the target (0: none is shorter) and the next that meets it; None: no length meets it.
    bracket: tuple[int, int] | None
    is_over: bool


def search_length(meets: MeetsTarget, *, start: int, shortest: int, longest: int, points: int) -> LengthSearch:
    """Replay a search from `start`; `points` lengths are tried between the ends of the bracket, evenly in log."""
    asked, bracket = [min(max(start, shortest), longest)], None
    while bracket is None:
        met = {length: meets(length) for length in asked}
        if None in met.values():
            return LengthSearch(tuple(asked), None, False)
        good = min((length for length, is_met in met.items() if is_met), default=None)
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
