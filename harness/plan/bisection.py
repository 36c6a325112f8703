"""A search for a positive hyper-parameter by its exponent: decades first, then bisection around the best value.

Smith 2018 (1803.09820), section 4.4, for weight decay: 1e-3, 1e-4, 1e-5 and 0, then the middle of the exponents, twice.
Works with any score per value. Rounds have fixed membership, so a replay asks for the same values.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.plan.errors import UserError

ScoreOf = Callable[[float], float | None]  # smaller is better, infinity: useless; None: not known yet


@dataclass(frozen=True)
class Bisection:
    """The state of a search."""

    values: tuple[float, ...]  # in the order in which they were asked for
    scores: dict[float, float]  # the scores that are known
    is_over: bool

    @property
    def best(self) -> float | None:
        """The value with the smallest score, of equals the larger; None until every score asked for is known."""
        if len(self.scores) < len(self.values) or not math.isfinite(min(self.scores.values())):
            return None
        return min(self.scores, key=lambda value: (self.scores[value], -value))

    @property
    def at_edge(self) -> bool:
        """Whether the best value is the largest tried: the optimum may lie beyond."""
        return self.best is not None and self.best == max(self.values)


def bisect_exponent(values: Sequence[float], score: ScoreOf, rounds: int) -> Bisection:
    """Replay a search that begins with `values` (at least two above 0; 0 is allowed too) and continues for `rounds`.

    A round asks for the geometric mean of the best value and each neighbour above 0. Where there is no such neighbour
    it goes one starting step further: up from the largest value, down from the smallest above 0, and also down where 0
    itself is best. Raises UserError for values that cannot begin a search.
    """
    positive = sorted({value for value in values if value > 0})
    if len(positive) < 2 or any(not (math.isfinite(value) and value >= 0) for value in values):
        raise UserError(f"question.values must be numbers >= 0, at least two of them > 0, not {list(values)}")
    if rounds < 0:
        raise UserError(f"question.rounds must be >= 0, not {rounds}")
    step = (positive[-1] / positive[0]) ** (1 / (len(positive) - 1))
    asked = sorted(set(values), reverse=True)
    for done in range(rounds + 1):
        scores = {value: known for value in asked if (known := score(value)) is not None}
        search = Bisection(tuple(asked), scores, is_over=done == rounds and len(scores) == len(asked))
        if search.best is None or search.is_over:
            return search
        asked = [*asked, *_between(asked, search.best, step)]
    raise AssertionError("the last round ends the search")


def _between(asked: Sequence[float], best: float, step: float) -> list[float]:
    """The next round around the best value, larger ones first."""
    positive = sorted(value for value in asked if value > 0)
    if best == 0:
        return [positive[0] / step]
    above = next((value for value in positive if value > best), best * step * step)
    below = next((value for value in reversed(positive) if value < best), best / step / step)
    return [math.sqrt(best * above), math.sqrt(best * below)]
