"""Where a trial reached a target, read from its journal: the same definition the trainer stopped by (rule 14)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.plan.target import Target


@dataclass(frozen=True)
class Crossing:
    """Places in examples seen; None where it did not happen. The crossing lies in (low, high]."""

    first_touch: int | None  # first evaluation that meets the target, confirmed or not
    low: int | None  # the evaluation before the crossing: the bracket's left edge
    high: int | None  # the crossing: first of the confirming evaluations
    confirmed: int | None  # the evaluation that confirmed it
    row: int | None  # index of the crossing's evaluation


def metric_at(evaluation: Mapping[str, Any], target: Target, weights: str) -> float | None:
    """The target's metric on the validation split for `weights` (raw | averaged), None where it was not a number."""
    return evaluation.get("validation", {}).get(weights, {}).get(target.metric)


def locate(evaluations: Sequence[Mapping[str, Any]], target: Target, weights: str) -> Crossing:
    """Find the crossing in a trial's evaluations, given in order of step."""
    place = target.crossing([metric_at(evaluation, target, weights) for evaluation in evaluations])
    examples = [int(evaluation["examples"]) for evaluation in evaluations]

    def at(index: int | None) -> int | None:
        return None if index is None else examples[index]

    low = None if place.crossed is None else (examples[place.crossed - 1] if place.crossed else 0)
    return Crossing(at(place.first_touch), low, at(place.crossed), at(place.confirmed), place.crossed)
