"""Range tests: what one short run, along which the LR or the momentum rises, says about its useful range.

The rising value's curve of validation losses is smoothed by a running mean over neighbouring evaluations, of the log of
the loss; slopes are taken in log LR (Smith 2015, 1506.01186, section 3.3, reads the same places by eye).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter1d

WINDOW = 5  # evaluations of the running mean
BEGUN = 0.1  # share of the whole fall (in log loss) after which it has begun
LOST = 0.5  # share of the whole fall that is lost again where a run counts as diverged


@dataclass(frozen=True)
class RangeBounds:
    """Places on the rising value's axis; nan where the run does not show one, and why is plain from the others."""

    begins: float  # the loss has begun to fall
    steepest: float  # it falls fastest per log of the value
    best: float  # it stops falling: its smoothed minimum
    diverges: float  # half of the fall is lost again, or training blew up; infinite: not within the test


def range_bounds(values: Sequence[float], losses: Sequence[float], blew_up: bool) -> RangeBounds:
    """Read one run: `values` > 0 rising, `losses` > 0 the validation loss there; `blew_up`: the trial ended diverged.

    A value that is not above the one before it is left out.

    Needs WINDOW evaluations; a run that blew up before has no useful range at all, and says where it did.
    """
    x = np.asarray(values, dtype=float)
    y = np.asarray(losses, dtype=float)
    usable = np.isfinite(y) & (y > 0) & (x > 0)
    end = int(np.argmin(usable)) if not usable.all() else len(usable)
    blew_up, x_end = blew_up or end < len(usable), float(x[min(end, len(x) - 1)]) if len(x) else math.nan
    x, y = x[:end], y[:end]
    rises = x > np.maximum.accumulate(np.concatenate([[0.0], x[:-1]])) if end else np.empty(0, bool)
    x, y = x[rises], y[rises]
    if len(x) < WINDOW:
        return RangeBounds(math.nan, math.nan, math.nan, x_end if blew_up else math.inf)
    log_loss = uniform_filter1d(np.log(y), WINDOW, mode="nearest")
    lowest = int(np.argmin(log_loss))
    fall = float(log_loss[: lowest + 1].max() - log_loss[lowest])
    if fall <= 0:
        return RangeBounds(math.nan, math.nan, math.nan, x_end if blew_up else math.inf)
    begun = int(np.argmax(log_loss <= log_loss[: lowest + 1].max() - BEGUN * fall))
    steepest = int(np.argmin(np.gradient(log_loss[: lowest + 1], np.log(x[: lowest + 1])))) if lowest else 0
    lost = np.flatnonzero(log_loss[lowest:] >= log_loss[lowest] + LOST * fall)
    diverges = float(x[lowest + lost[0]]) if len(lost) else (x_end if blew_up else math.inf)
    return RangeBounds(float(x[begun]), float(x[steepest]), float(x[lowest]), diverges)
