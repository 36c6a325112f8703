"""How well a median of timed rounds is known, and whether it can be what it claims: time alone on the machine."""

import math
import statistics
from collections.abc import Sequence

from harness.statistics.levels import PRIOR_DEGREES

# Of the median of three normal values, in units of their variance: 1 - sqrt(3) / pi. Two more values do not change
# much, and one of two or one value is its own mean.
VARIANCE_OF_MEDIAN = 1 - math.sqrt(3) / math.pi
# Slower than the trials by more than this is wrong. A true time alone is below theirs (2 to 11 % on two idle cores,
# where theirs shared the machine, began a new stream at every evaluation and measured diagnostics).
SLOWER = 0.1
STANDARD_ERRORS = 2.0  # and by more than this many, so that trials of a few updates are no evidence


def relative_sds(rounds: Sequence[Sequence[float]]) -> list[float | None]:
    """Standard deviation of the log of each median of three rounds; None where fewer than two are known.

    Three rounds tell little of their spread: the variance of each is shrunk towards the pooled one of all, as that of
    an arm's trials is (levels.py), and a noisier one keeps its own.
    """
    own = [statistics.variance(map(math.log, times)) if len(times) > 1 else None for times in rounds]
    known = [variance for variance in own if variance is not None]
    pooled = statistics.fmean(known) if known else 0.0
    return [None if variance is None else _of_median(variance, pooled, len(times) - 1)
            for variance, times in zip(own, rounds, strict=True)]  # fmt: skip


def is_slower(alone_s: float, relative_sd: float | None, packed_s: Sequence[float]) -> bool:
    """Whether a time alone on the machine exceeds the median of the trials' own by too much to be one."""
    if not packed_s:
        return False
    excess = math.log(alone_s / statistics.median(packed_s))
    spread = statistics.stdev(map(math.log, packed_s)) if len(packed_s) > 1 else 0.0
    error = math.hypot(relative_sd or 0.0, spread * math.sqrt(math.pi / 2 / len(packed_s)))
    return excess > math.log1p(SLOWER) and excess > STANDARD_ERRORS * error


def _of_median(own: float, pooled: float, degrees: int) -> float:
    shrunk = (PRIOR_DEGREES * pooled + degrees * own) / (PRIOR_DEGREES + degrees)
    return math.sqrt(max(own, shrunk) * VARIANCE_OF_MEDIAN)
