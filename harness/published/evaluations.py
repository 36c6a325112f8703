"""Where published evaluations first touched a target, crossed it, and held it to the end."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.plan.outcome import Outcome
from harness.plan.target import Target
from harness.statistics.estimates import Observation, scaled


@dataclass(frozen=True)
class Hits:
    """Where one run met a target, in the unit of its positions; nan where it did not."""

    first_touch: float
    crossed: float  # first of `confirm` consecutive evaluations
    held_from: float  # met at every evaluation from here to the end
    observation: Observation  # of the crossing, with its bracket

    def scaled(self, factor: float) -> "Hits":
        """The same in another unit."""
        return Hits(
            self.first_touch * factor,
            self.crossed * factor,
            self.held_from * factor,
            scaled(self.observation, factor),
        )


def hits(places: Sequence[float], metrics: Sequence[float | None], target: Target) -> Hits:
    """Where one run's evaluations, given in order, meet `target`."""
    crossing = target.crossing(metrics)
    unmet = [i for i, metric in enumerate(metrics) if not target.reached(metric)]
    start = unmet[-1] + 1 if unmet else 0
    if crossing.crossed is None:
        observed = Observation(Outcome.CENSORED, math.inf, float(places[-1]) if len(places) else 0.0)
    else:
        before = places[crossing.crossed - 1] if crossing.crossed else 0.0
        observed = Observation(Outcome.REACHED, float(places[crossing.crossed]), float(before))
    return Hits(
        _at(places, crossing.first_touch),
        _at(places, crossing.crossed),
        _at(places, start if start < len(metrics) else None),
        observed,
    )


def _at(places: Sequence[float], index: int | None) -> float:
    return math.nan if index is None else float(places[index])
