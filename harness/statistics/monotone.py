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
    """The length at which the fitted median meets the target; an end is infinite where resamples never meet it."""

    length: float
    low: float
    high: float
    fitted: dict[int, float]  # the monotone median at each length tried


def met_length(finals: Mapping[int, Sequence[float]], value: float, mode: str, resamples: int = RESAMPLES) -> MetLength:
    """Regress the median final metric on log length; `finals` holds one value a seed, not finite where it diverged.

    The interval is the percentile bootstrap over the seeds of each length: it knows nothing of lengths in between.
    Without `resamples` it is everything.
    """
    sign = 1.0 if mode == "max" else -1.0
    lengths = sorted(finals)
    values = [[sign * final if math.isfinite(final) else -math.inf for final in finals[n]] for n in lengths]
    fitted = _monotone(values)
    draw = np.random.default_rng(0)
    resampled = sorted(
        _crossing(lengths, _monotone([draw.choice(seeds, len(seeds)).tolist() for seeds in values]), sign * value)
        for _ in range(resamples)
    )
    tail = (1 - CONFIDENCE) / 2
    return MetLength(
        _crossing(lengths, fitted, sign * value),
        inverted_cdf(resampled, tail) if resampled else 0.0,
        inverted_cdf(resampled, 1 - tail) if resampled else math.inf,
        {n: sign * float(fit) for n, fit in zip(lengths, fitted, strict=True)},
    )


def _monotone(values: Sequence[Sequence[float]]) -> Sequence[float]:
    """Medians (the worse of two middle ones), made to rise; a median that diverged counts as the worst finite value."""
    medians = [inverted_cdf(sorted(seeds), 0.5) for seeds in values]
    finite = [median for median in medians if math.isfinite(median)]
    if not finite:
        return medians
    floored = [max(median, min(finite)) for median in medians]
    return isotonic_regression(floored, weights=[len(seeds) for seeds in values]).x.tolist()


def _crossing(lengths: Sequence[int], fitted: Sequence[float], value: float) -> float:
    """Where the fit first reaches `value`, linear in log length between the lengths tried."""
    met = next((i for i, fit in enumerate(fitted) if fit >= value), None)
    if met is None:
        return math.inf
    if met == 0:
        return float(lengths[0])
    before, after = fitted[met - 1], fitted[met]
    share = (value - before) / (after - before)
    return lengths[met - 1] * (lengths[met] / lengths[met - 1]) ** share
