"""What more devices buy: where they stop paying, which choices nothing beats, and the knee between time and cost."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

PAYS = 0.5  # least fall of log time per log n: a doubling still saves 29 % of the hours


@dataclass(frozen=True)
class StopsPaying:
    """The largest number of devices that pays; infinite where all that were compared do, NaN for fewer than two."""

    devices: float
    low: float  # 95 %
    high: float
    largest: int  # compared


def stops_paying(devices: Sequence[int], seconds: Array, pays: float = PAYS) -> StopsPaying:
    """From the draws of the time on each number of devices (ascending), float [draw, n].

    The fall per log n between two neighbours counts at their geometric mean, and in between it is interpolated.
    """
    if len(devices) < 2:
        return StopsPaying(math.nan, math.nan, math.nan, max(devices, default=0))
    found = np.array([largest_that_pays(devices, row, pays) for row in np.log(seconds)])
    low, middle, high = np.quantile(found, [0.025, 0.5, 0.975], method="nearest")
    return StopsPaying(float(middle), float(low), float(high), max(devices))


def largest_that_pays(devices: Sequence[int], log_seconds: Array, pays: float = PAYS) -> float:
    """Where the fall first drops below `pays`; the first number of devices where none pays."""
    log_n = np.log(devices)
    falls = -np.diff(log_seconds) / np.diff(log_n)
    middles = (log_n[1:] + log_n[:-1]) / 2
    below = np.flatnonzero(~(falls >= pays))
    if not len(below):
        return math.inf
    first = int(below[0])
    if first == 0:
        return float(devices[0])
    share = (falls[first - 1] - pays) / (falls[first - 1] - falls[first])
    return float(np.exp(middles[first - 1] + share * (middles[first] - middles[first - 1])))


def frontier(hours: Sequence[float], costs: Sequence[float]) -> list[int]:
    """Indices of the choices that no other beats in both, the fastest first."""
    order = sorted(range(len(hours)), key=lambda i: (hours[i], costs[i]))
    kept: list[int] = []
    for i in order:
        if math.isfinite(hours[i]) and (not kept or costs[i] < costs[kept[-1]]):
            kept.append(i)
    return kept


def knee(hours: Sequence[float], device_hours: Sequence[float]) -> int | None:
    """Index of the least time x device-hours; None where no time is finite."""
    finite = [i for i, value in enumerate(hours) if math.isfinite(value)]
    return min(finite, key=lambda i: hours[i] * device_hours[i], default=None)
