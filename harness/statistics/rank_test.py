"""How many times later do the trials of b cross than those of a, where some missed? A rank test, inverted (P27).

For a ratio theta, b's crossings and stops are divided by theta. A trial that was stopped (budget or race) is known to
cross no earlier than its stop, so the earliest stop of both arms censors both: everything at or beyond it is one tie
at the top, wherever it was stopped. A diverged trial never crosses: it stands in the same tie, but stops nobody else.
A trial that met the target at its first evaluation crossed anywhere before it: all that crossed by then are one tie
at the bottom. The statistic is the sum of a's mid-ranks, judged by its exact two-sided permutation law; the interval
is the hull of all theta with p >= 5 %. The verdict is whether 1 lies outside it: they cannot contradict each other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from harness.plan.outcome import Outcome
from harness.statistics.estimates import CONFIDENCE, LEVEL, Interval, Observation

Array = NDArray[np.float64]

SAME = 1e-11  # logs of places closer than this are one place
TOP = 1e4  # beyond the logarithm of any place
MOST_EXACT = 20  # trials of both arms up to which the permutation law is enumerated whatever their split
MOST_SPLITS = (
    20_000  # of more trials, the law is enumerated up to so many splits; beyond, it is the normal law with ties
)
METHOD = "rank test"


@dataclass(frozen=True)
class RatioTest:
    """The test of every ratio theta of b over a; between two neighbouring `breaks` nothing changes.

    Piece 0 lies below every break, piece 2i + 1 is break i itself, piece 2i + 2 the open interval above it: its ends
    are written a part in 10^11 inside, so that an end that is itself rejected lies outside the hull.
    """

    breaks: Array  # log theta at which two trials tie or a stop begins to count, ascending, float [k]
    p: Array  # two-sided, float [2k + 1]
    later: Array  # how far b's ranks lie above their expectation, float [2k + 1]
    is_exact: bool
    reason: str  # why no ratio can be excluded; empty where some can

    @cached_property
    def balance(self) -> tuple[float, float]:
        """Log ratios at which b is neither later nor earlier than a (Hodges and Lehmann); may be unbounded."""
        not_later, not_earlier = np.flatnonzero(self.later <= 0), np.flatnonzero(self.later >= 0)
        low = self._ends(int(not_later[0]))[0] if len(not_later) else math.inf
        high = self._ends(int(not_earlier[-1]))[1] if len(not_earlier) else -math.inf
        return min(low, high), max(low, high)

    @property
    def ratio(self) -> float:
        """The middle of the balance: infinite or 0 where only one end is known, nan where neither is."""
        low, high = self.balance
        if math.isinf(low) and math.isinf(high) and low != high:
            return math.nan
        return _exp((low + high) / 2)

    @property
    def bounds(self) -> tuple[float, float]:
        """The ends of the balance: what an infinite ratio is at least, and a ratio of 0 at most; nan where unknown."""
        low, high = self.balance
        return (math.nan, math.nan) if math.isnan(self.ratio) else (_exp(low), _exp(high))

    @property
    def interval(self) -> Interval:
        """The hull of the ratios that are not rejected at 5 %."""
        kept = np.flatnonzero(self.p >= LEVEL)
        low, high = self.balance
        if len(kept):
            low = min(low, self._ends(int(kept[0]))[0])
            high = max(high, self._ends(int(kept[-1]))[1])
        if low == -math.inf and high == math.inf:
            return Interval(0.0, math.inf, 1.0, self.reason or "no ratio can be excluded")
        return Interval(_exp(low), _exp(high), CONFIDENCE, METHOD)

    def p_at_most(self, log_ratio: float) -> float:
        """Two-sided p of the hypothesis that b is at most this many times later: the best of all ratios up to it."""
        low, _ = self.balance
        return self._best(low <= log_ratio + SAME / 2, self._lower_ends <= log_ratio + SAME / 2)

    def p_at_least(self, log_ratio: float) -> float:
        """Two-sided p of the hypothesis that b is at least this many times later."""
        _, high = self.balance
        return self._best(high >= log_ratio - SAME / 2, self._upper_ends >= log_ratio - SAME / 2)

    @property
    def p_different(self) -> float:
        """The smallest level whose hull of ratios excludes 1."""
        return min(self.p_at_most(0.0), self.p_at_least(0.0))

    @property
    def p_at_one(self) -> float:
        """Of the permutation test itself, at a ratio of 1."""
        at = int(np.searchsorted(self.breaks, -SAME / 2))
        is_break = at < len(self.breaks) and abs(self.breaks[at]) <= SAME / 2
        return float(self.p[2 * at + 1 if is_break else 2 * at])

    def p_equivalent(self, log_margin: float) -> float:
        """One-sided p of the hypothesis that the ratio lies beyond the margin, on either side."""
        return max(self.p_at_least(log_margin), self.p_at_most(-log_margin)) / 2

    def p_slower(self, log_margin: float) -> float:
        """One-sided p of the hypothesis that b is at most exp(log_margin) times later; below 2.5 % only where the
        whole interval lies above."""
        p = self.p_at_most(log_margin)
        return p / 2 if p < 1 else 0.5

    def _ends(self, piece: int) -> tuple[float, float]:
        return float(self._lower_ends[piece]), float(self._upper_ends[piece])

    @cached_property
    def _lower_ends(self) -> Array:
        return np.concatenate([[-math.inf], np.repeat(self.breaks, 2) + np.tile([0.0, SAME], len(self.breaks))])

    @cached_property
    def _upper_ends(self) -> Array:
        return np.concatenate([np.repeat(self.breaks, 2) - np.tile([SAME, 0.0], len(self.breaks)), [math.inf]])

    def _best(self, balanced: bool, pieces: NDArray[np.bool_]) -> float:
        """1 where the ratio at which the test balances is among them: it is never excluded."""
        return 1.0 if balanced else float(self.p[pieces].max(initial=0.0))


def ratio_test(strata: Sequence[tuple[Sequence[Observation], Sequence[Observation]]]) -> RatioTest:
    """Test all ratios that pairs (a, b) of arms, without failed trials, may have in common; an empty arm says nothing.

    Several pairs (one for each arm that two studies share) add their deviations, each with its own earliest stop.
    """
    pairs = [(_Arm.of(a), _Arm.of(b)) for a, b in strata if a and b]
    if not pairs:
        return RatioTest(np.empty(0), np.ones(1), np.zeros(1), True, "no data")
    breaks = _breaks(pairs)
    middles = (breaks[1:] + breaks[:-1]) / 2
    ends = (breaks[0] - 1, breaks[-1] + 1) if len(breaks) else (0.0, 0.0)
    points = np.empty(2 * len(breaks) + 1)
    points[1::2] = breaks
    points[::2] = np.concatenate([[ends[0]], middles, [ends[1]]]) if len(breaks) else 0.0
    ranks = [_ranks(a, b, points) for a, b in pairs]
    later = -sum((deviation for _, deviation in ranks), np.zeros(len(points)))
    a, b = pairs[0]
    is_small = a.n + b.n <= MOST_EXACT or math.comb(a.n + b.n, a.n) <= MOST_SPLITS
    is_exact = len(pairs) == 1 and is_small
    p = _exact_p(*ranks[0], a.n) if is_exact else _normal_p(ranks, pairs)
    return RatioTest(breaks, p, later, is_exact, _reason(pairs) if (p >= LEVEL).all() else "")


def least_p(n_a: int, n_b: int) -> float:
    """The smallest two-sided p that the ranks of so many trials can have without ties."""
    return min(1.0, 2 / math.comb(n_a + n_b, n_a)) if min(n_a, n_b) else 1.0


@dataclass(frozen=True)
class _Arm:
    """Logarithms of what is known of each trial; infinite where nothing is."""

    middles: Array  # of the brackets, +infinity for a miss
    places: Array  # right edges
    stop: float  # the earliest stop of a trial that might have crossed later; +infinity: none
    first: float  # the latest first evaluation that met the target; -infinity: none

    @property
    def n(self) -> int:
        return len(self.places)

    @staticmethod
    def of(observations: Sequence[Observation]) -> "_Arm":
        stops = [o.at_least for o in observations if not o.reached and o.outcome is not Outcome.DIVERGED]
        firsts = [o.place for o in observations if o.reached and not o.has_log]
        return _Arm(
            np.array([_log(o.middle) for o in observations]),
            np.array([_log(o.place) for o in observations]),
            min(map(_log, stops), default=math.inf),
            max(map(_log, firsts), default=-math.inf),
        )


def _breaks(pairs: Sequence[tuple[_Arm, _Arm]]) -> Array:
    """Log ratios at which the ranks may change: two crossings tie, or one comes to a stop or to a first evaluation."""
    found = []
    for a, b in pairs:
        of_a, of_b = np.array([a.stop, a.first]), np.array([b.stop, b.first])
        found += [
            (b.middles[:, None] - _finite(a.middles)).ravel(),
            (b.places[:, None] - _finite(of_a)).ravel(),
            (of_b[:, None] - _finite(a.places)).ravel(),
            (of_b[:, None] - _finite(of_a)).ravel(),
        ]
    logs = _finite(np.concatenate(found))
    ordered = np.sort(np.where(np.abs(logs) <= SAME / 2, 0.0, logs))
    return ordered[np.diff(ordered, prepend=-math.inf) > 3 * SAME]


def _ranks(a: _Arm, b: _Arm, points: Array) -> tuple[Array, Array]:
    """Twice the mid-ranks of all trials in ascending order [points, n], and twice the deviation of a's sum [points]."""
    shift = points[:, None]
    middles = np.concatenate([np.broadcast_to(a.middles, (len(points), a.n)), b.middles - shift], axis=1)
    places = np.concatenate([np.broadcast_to(a.places, (len(points), a.n)), b.places - shift], axis=1)
    stop, first = np.minimum(a.stop, b.stop - shift), np.maximum(a.first, b.first - shift)
    values = np.where(places <= first + SAME, -TOP, middles)
    values = np.where(places >= stop - SAME, TOP, values)
    values = np.where(first >= stop - SAME, 0.0, values)  # what is before may be after: nothing is known
    values = np.minimum(values, TOP)
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    n = ordered.shape[1]
    begins = np.diff(ordered, axis=1, prepend=-math.inf) > SAME
    ends = np.concatenate([begins[:, 1:], np.ones((len(points), 1), bool)], axis=1)
    index = np.arange(n)
    start = np.maximum.accumulate(np.where(begins, index, 0), axis=1)
    end = np.minimum.accumulate(np.where(ends, index, n)[:, ::-1], axis=1)[:, ::-1]
    ranks = (start + end + 2).astype(float)
    deviation = np.where(order < a.n, ranks, 0.0).sum(axis=1) - a.n * (n + 1)
    return ranks, deviation


def _exact_p(ranks: Array, deviation: Array, n_a: int) -> Array:
    patterns, of_point = np.unique(ranks.astype(np.int16), axis=0, return_inverse=True)
    fewer = min(n_a, patterns.shape[1] - n_a)  # the sums of both arms deviate alike
    laws = [_law(pattern.tobytes(), fewer) for pattern in patterns]
    sizes = np.abs(deviation).astype(int)
    return np.array([laws[i][size] for i, size in zip(of_point.ravel(), sizes, strict=True)])


@lru_cache(maxsize=20_000)
def _law(doubled_ranks: bytes, chosen: int) -> Array:
    """P(|twice the sum of `chosen` of these ranks - its mean| >= d), d = 0, 1, ..., over all equally likely choices."""
    ranks = np.frombuffer(doubled_ranks, np.int16).astype(int)
    n, largest = len(ranks), int(ranks[len(ranks) - chosen :].sum())
    ways = np.zeros((chosen + 1, largest + 1))
    ways[0, 0] = 1.0
    for rank in ranks:
        ways[1:, rank:] += ways[:-1, : largest + 1 - rank]
    distance = np.abs(np.arange(largest + 1) - chosen * (n + 1))
    as_far = np.bincount(distance, weights=ways[chosen])[::-1].cumsum()[::-1]  # counts: 1 of 20 is 5 %, not less
    return np.append(as_far, np.zeros(chosen * (n + 1) + 1)) / math.comb(n, chosen)


def _normal_p(ranks: Sequence[tuple[Array, Array]], pairs: Sequence[tuple[_Arm, _Arm]]) -> Array:
    """The normal law with the variance of the ties and a correction for continuity."""
    deviation, variance = np.zeros(len(ranks[0][1])), np.zeros(len(ranks[0][1]))
    for (doubled, own), (a, b) in zip(ranks, pairs, strict=True):
        n = a.n + b.n
        deviation += own
        variance += a.n * b.n / (n * (n - 1)) * np.square(doubled - (n + 1)).sum(axis=1)
    distance = np.maximum(np.abs(deviation) - 1, 0)
    z = np.divide(distance, np.sqrt(variance), out=np.zeros(len(variance)), where=variance > 0)
    return 2 * special.ndtr(-z)


def _reason(pairs: Sequence[tuple[_Arm, _Arm]]) -> str:
    """Why no ratio can be excluded, where the trials' counts or their endings alone say it."""
    if not any(np.isfinite(arm.places).any() for pair in pairs for arm in pair):
        return "no trial reached the target"
    a, b = pairs[0]
    if len(pairs) == 1 and least_p(a.n, b.n) >= LEVEL:  # ties of unequal arms may still come to half of it
        return f"{a.n} against {b.n} trial{'s' * (b.n > 1)} cannot reach 5 % by ranks"
    return ""


def _finite(values: Array) -> Array:
    return values[np.isfinite(values)]


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _exp(value: float) -> float:
    """Rounded so that the ratio of two places is what it was before their logs were taken."""
    return math.inf if value > 709.0 else float(f"{math.exp(value):.13g}")
