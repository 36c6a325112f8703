"""Where a metric that improves with log length meets its target: monotone regression, inverted, with a bootstrap."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression

from harness.statistics.estimates import CONFIDENCE, inverted_cdf

RESAMPLES = 500


@dataclass(frozen=True)
class MetLength:
    """The length at which the fitted median meets the target.

    `low` is 0 where the shortest length tried may be more than enough; where none met the target it is the longest one
    tried, and `high` infinite.
    """

    length: float
    low: float
    high: float
    fitted: dict[int, float]  # the monotone median at each length tried


def met_length(finals: Mapping[int, Sequence[float]], value: float, mode: str, resamples: int = RESAMPLES) -> MetLength:
    """Regress the median final metric on log length; `finals` holds one value a seed, not finite where it diverged.

    The interval is the percentile bootstrap over the seeds of each length: it knows nothing of lengths in between.
    Without `resamples`, or with one seed a length, it is everything.
    """
    sign = 1.0 if mode == "max" else -1.0
    lengths = sorted(finals)
    values = [[sign * final if math.isfinite(final) else -math.inf for final in finals[n]] for n in lengths]
    fitted = _monotone(values)
    if max(map(len, values), default=0) < 2:
        resamples = 0
    draw = np.random.default_rng(0)
    resampled = sorted(
        _crossing(lengths, _monotone([draw.choice(seeds, len(seeds)).tolist() for seeds in values]), sign * value)
        for _ in range(resamples)
    )
    tail = (1 - CONFIDENCE) / 2
    return MetLength(
        _crossing(lengths, fitted, sign * value),
        _at_least(inverted_cdf(resampled, tail), lengths) if resampled else 0.0,
        inverted_cdf(resampled, 1 - tail) if resampled else math.inf,
        {n: sign * float(fit) for n, fit in zip(lengths, fitted, strict=True)},
    )


def _at_least(low: float, lengths: Sequence[int]) -> float:
    """A lower end that the lengths tried support."""
    return 0.0 if low <= lengths[0] else min(low, float(lengths[-1]))


def _monotone(values: Sequence[Sequence[float]]) -> Sequence[float]:
    """Medians (the worse of two middle ones), made to rise.

    A median that diverged counts as the worst finite value, but before the first finite one it stays infinitely bad.
    """
    medians = [inverted_cdf(sorted(seeds), 0.5) for seeds in values]
    finite = [median for median in medians if math.isfinite(median)]
    if not finite:
        return medians
    start = medians.index(finite[0])
    floored = [max(median, min(finite)) for median in medians[start:]]
    weights = [len(seeds) for seeds in values[start:]]
    return [*medians[:start], *isotonic_regression(floored, weights=weights).x.tolist()]


def _crossing(lengths: Sequence[int], fitted: Sequence[float], value: float) -> float:
    """Where the fit first reaches `value`, linear in log length between the lengths tried; next to one that diverged,
    the length itself."""
    met = next((i for i, fit in enumerate(fitted) if fit >= value), None)
    if met is None:
        return math.inf
    if met == 0:
        return float(lengths[0])
    before, after = fitted[met - 1], fitted[met]
    share = (value - before) / (after - before) if math.isfinite(before) else 1.0
    return lengths[met - 1] * (lengths[met] / lengths[met - 1]) ** share
