"""What a trial's journal and its record.json both state, and where they differ.

Each is written on its own: the journal row by row, the record once at the end. One flipped byte changes one of them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from harness.plan.outcome import Outcome
from harness.plan.settings import Settings

LARGEST = 2**53  # of the integers that JSON readers agree on
LARGEST_SIZE = 1e300
# What record.json and the journal's last evaluation have in common, and what record.json and its `end` row have.
LAST_ROW = {"steps": "step", "examples": "examples", "epochs": "epochs"}
END_ROW = {"outcome": "outcome", "steps": "step", "diverged_at_step": "diverged_at_step", "test": "test"}
END_ROW |= {"clock": "clock"}


def is_evaluation(row: Mapping[str, Any]) -> bool:
    """Whether a journal's row has the form of an evaluation; an imported run may have one at step 0."""
    if not is_count(row.get("step")):
        return False
    scores = row.get("validation", {})
    return (
        is_finite(row.get("examples", 0))
        and is_finite(row.get("epochs", 0))
        and _are_numbers(row.get("clock", {}))
        and isinstance(scores, Mapping)
        and all(map(_are_numbers, scores.values()))
    )


def difference(
    record: Mapping[str, Any],
    end: Mapping[str, Any] | None,
    evaluations: Sequence[Mapping[str, Any]],
    settings: Settings | None,
) -> str | None:
    """The first thing on which record.json and the journal of an ended trial differ; None if they agree on all that
    both state. `end` is the journal's last row, if it has one."""
    missing = ({"evaluations", *LAST_ROW, *END_ROW} - record.keys()) if end is not None else ()
    if missing:
        return f"record.json has no {', '.join(sorted(missing))}"
    if "evaluations" in record and record["evaluations"] != len(evaluations):
        return f"record.json counts {shown(record['evaluations'])} evaluations, and the journal has {len(evaluations)}"
    pairs = [(key, record, name, evaluations[-1]) for key, name in LAST_ROW.items()] if evaluations else []
    pairs += [(key, record, name, end) for key, name in END_ROW.items()] if end is not None else []
    for key, ours, name, theirs in pairs:
        if key in ours and name in theirs and not _agree(ours[key], theirs[name]):
            return f"record.json has {key} {shown(ours[key])}, and the journal {shown(theirs[name])}"
    for key in ("test", "clock"):
        if not _are_numbers(record.get(key, {})):
            return f"record.json has {key} {shown(record[key])}"
    if settings is None or not evaluations:
        return None
    for row in evaluations:
        if missing := {"examples", "validation", "clock"} - row.keys():
            return f"the evaluation at step {row['step']} has no {', '.join(sorted(missing))} in the journal"
    if end is not None and (wrong := _misplaced(evaluations, settings)):
        return wrong
    return _wrong_outcome(Outcome(record["outcome"]), evaluations, settings)


def _misplaced(evaluations: Sequence[Mapping[str, Any]], settings: Settings) -> str | None:
    """An evaluation of our trainer whose step, examples and epochs do not belong together."""
    for row in evaluations:
        examples = row["step"] * settings.total_batch_size
        epochs = examples / settings.train_examples
        if row["examples"] != examples or not math.isclose(row.get("epochs", epochs), epochs, rel_tol=1e-9):
            return f"the evaluation at step {row['step']} has examples {shown(row['examples'])} in the journal"
    return None


def _wrong_outcome(outcome: Outcome, evaluations: Sequence[Mapping[str, Any]], settings: Settings) -> str | None:
    weights, target = settings.averaging.decide_on, settings.target
    metrics = [row["validation"].get(weights, {}).get(target.metric) for row in evaluations]
    has_crossed = target.crossing(metrics).confirmed is not None
    if outcome is Outcome.REACHED and not has_crossed:
        return "record.json has outcome reached, but no evaluations in the journal confirm the target"
    missed = outcome is Outcome.CENSORED or (outcome is Outcome.DOMINATED and settings.stop_at_target)
    if missed and has_crossed:
        return f"record.json has outcome {outcome}, but evaluations in the journal confirm the target"
    return None


def _agree(a: Any, b: Any) -> bool:
    """Whether two accounts are equal in all that both have: a newer version may have added to one of them."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return all(_agree(a[key], b[key]) for key in a.keys() & b.keys())
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _are_numbers(values: Any) -> bool:
    """Whether it is a group of numbers; null stands for one that was not finite."""
    return isinstance(values, Mapping) and all(value is None or is_finite(value) for value in values.values())


def is_count(value: Any) -> bool:
    """Whether it can be a number of steps or attempts."""
    return type(value) is int and 0 <= value < LARGEST


def is_finite(value: Any) -> bool:
    """Whether it is a number that floats can hold."""
    return type(value) in (int, float) and math.isfinite(value) and abs(value) < LARGEST_SIZE


def shown(value: Any) -> str:
    """A value of a damaged file, for a message."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]} ..."
