"""Which arms are not distinguished from the best one: the least mean of several is a bare argmin (P27).

The set holds the best arm with at least 95 %. It is printed, never used to choose: its smallest member costs 14 to 21 %
more time than the best (recommendation.py chooses).
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

from harness.statistics.dunnett import dunnett_quantile
from harness.statistics.estimates import CONFIDENCE, Observation
from harness.statistics.levels import Key, Level, levels

ROUNDING = 1e-12  # equal means of equal places may differ in the last bit


@dataclass(frozen=True)
class BestSet(Generic[Key]):
    """The arms that may be the best; arms with a miss stay in unless a test of two arms excludes them."""

    best: Key | None  # least geometric mean of the arms in which every trial reached; None where there is none
    members: tuple[Key, ...]  # in the given order, `best` among them
    excluded: tuple[Key, ...]
    with_misses: tuple[Key, ...]  # of `members`
    arms: int  # distinct arms compared
    coverage: float  # 0 where no spread between trials is known and no test of two arms excludes any


def best_set(
    arms: Mapping[Key, Sequence[Observation]],
    *,
    excludes: Callable[[Key, Key], bool] | None = None,
    identity: Callable[[Key], Hashable] = lambda key: key,
) -> BestSet[Key]:
    """The arms whose mean log place is within c sqrt(e_i + e_j) of that of every other arm.

    e is the squared standard error of a mean (levels.py) and c Dunnett's one-sided 95 % quantile. An arm that met the
    target at a first evaluation is known to need at most that: enough to exclude others, not to be excluded. For pairs
    that this does not compare, as with a miss, `excludes(arm, other)` is the verdict of a two-arm test that `arm` is
    worse. Keys of one `identity` are the same trials under two names: the first stands for all.
    """
    distinct: dict[Hashable, Key] = {}
    for key in arms:
        distinct.setdefault(identity(key), key)
    by_key = levels({key: arms[key] for key in distinct.values()})
    complete = {key: level for key, level in by_key.items() if not level.is_at_least}

    def is_worse(key: Key, other: Key) -> bool:
        if other in complete and by_key[key].is_measured:
            return exceeds(complete[key], complete[other], len(complete) - 1)
        return excludes is not None and excludes(key, other)

    members = tuple(key for key in by_key if not any(is_worse(key, other) for other in by_key if other != key))
    best = min(complete, key=lambda key: complete[key].mean) if complete else None
    if best is not None and best not in members:  # one with misses excludes it
        best = min((key for key in members if key in complete), key=lambda key: complete[key].mean, default=None)
    excluded = tuple(key for key in by_key if key not in members)
    return BestSet(
        best=best,
        members=members,
        excluded=excluded,
        with_misses=tuple(key for key in members if key not in complete),
        arms=len(by_key),
        coverage=CONFIDENCE if excluded or any(level.degrees for level in complete.values()) else 0.0,
    )


def exceeds(level: Level, other: Level, comparisons: int, *, factor: float = 1.0, tail: float = 1 - CONFIDENCE) -> bool:
    """Whether `level` is shown to be above `factor` times `other`, as one of so many comparisons with it."""
    quantile = dunnett_quantile(comparisons, min(level.degrees, other.degrees), tail)
    if math.isinf(quantile):
        return False
    distance = level.mean - other.mean - math.log(factor)
    return distance > quantile * math.sqrt(level.variance + other.variance) + ROUNDING
