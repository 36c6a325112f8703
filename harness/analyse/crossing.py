"""Where a trial reached a target, read from its journal: the same definition the trainer stopped by (P14)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.analyse.evaluations import column, metric_column
from harness.plan.target import Target


@dataclass(frozen=True)
class Crossing:
    """Places in examples seen; None where it did not happen. The crossing lies in (low, high]."""

    first_touch: int | None  # first evaluation that meets the target, confirmed or not
    low: int | None  # the evaluation before the crossing: the bracket's left edge
    high: int | None  # the crossing: first of the confirming evaluations
    confirmed: int | None  # the evaluation that confirmed it
    row: int | None  # index of the crossing's evaluation
    pending: int | None = None  # of a record that ends while the target holds, too short to confirm: where it began


def metric_at(evaluation: Mapping[str, Any], target: Target, weights: str) -> float | None:
    """The target's metric on the validation split for `weights` (raw | averaged), None where it was not a number."""
    return score_at(evaluation, target.metric, weights)


def score_at(evaluation: Mapping[str, Any], metric: str, weights: str) -> float | None:
    """A metric on the validation split for `weights`, None where it was not a number or not measured."""
    return evaluation.get("validation", {}).get(weights, {}).get(metric)


def locate(evaluations: Sequence[Mapping[str, Any]], target: Target, weights: str) -> Crossing:
    """Find the crossing in a trial's evaluations, given in order of step."""
    hits = _hits(metric_column(evaluations, target, weights), target)
    place = target.crossing_of(hits)
    examples = column(evaluations, "examples")

    def at(index: int | None) -> int | None:
        return None if index is None else int(examples[index])

    low = None if place.crossed is None else (int(examples[place.crossed - 1]) if place.crossed else 0)
    held = next((i for i, hit in enumerate(reversed(hits)) if not hit), len(hits))
    pending = len(hits) - held if held and place.crossed is None else None
    return Crossing(at(place.first_touch), low, at(place.crossed), at(place.confirmed), place.crossed, at(pending))


def _hits(metrics: Sequence[float | None], target: Target) -> list[bool]:
    """`target.reached` of every evaluation at once: a study of 10,000 trials asks it a hundred million times."""
    values = np.asarray(metrics, float)  # None becomes nan
    met = values >= target.value if target.mode == "max" else values <= target.value
    return (met & np.isfinite(values)).tolist()
