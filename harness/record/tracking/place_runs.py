"""Where the evaluations of runs from elsewhere stand: by which counter, and whether the run's counters agree (P30).

W&B's own step counts calls of `wandb.log` unless a script passes `step=`, so it is the last choice, and only where it
cannot be such a count.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from harness.plan.batch_factors import is_number
from harness.plan.counters import (
    COUNTS_FROM_ZERO,
    Counter,
    are_fractions,
    counter_of,
    counts_from_zero,
    epochs_disagree,
    first_fall,
    implied_batch_size,
    split_offset,
)
from harness.plan.errors import UserError
from harness.record.tracking.read_runs import RunRead
from harness.record.tracking.replicate_runs import is_ours

WANDB_STEP = "_step"
RECOGNISED = (Counter.EXAMPLES, Counter.UPDATES, Counter.EPOCHS)  # preferred first


@dataclass(frozen=True)
class CounterKeys:
    """The keys of rows that a user named, `None` where the rows are to be searched: `epoch+1` counts from 0."""

    examples: str | None = None
    updates: str | None = None
    epochs: str | None = None

    def given(self) -> tuple[Counter, str] | None:
        """The counter that places evaluations: examples, updates and epochs in this order."""
        named = {Counter.EXAMPLES: self.examples, Counter.UPDATES: self.updates, Counter.EPOCHS: self.epochs}
        return next(((counter, key) for counter, key in named.items() if key is not None), None)


@dataclass(frozen=True)
class Axis:
    """The counter by which a run's evaluations are placed."""

    counter: Counter
    key: str
    offset: int = 0
    is_given: bool = False

    @property
    def words(self) -> str:
        name = "W&B's step" if self.key == WANDB_STEP else self.key
        return f"{name}{f' + {self.offset}' if self.offset else ''} as {self.counter}"


@dataclass(frozen=True)
class Evaluations:
    """The rows of one run that have the metric, in order of W&B's step."""

    run: RunRead
    rows: Sequence[Mapping[str, Any]]
    axis: Axis | None = None
    has_diverged: bool = False  # its last metrics are no numbers

    @property
    def name(self) -> str:
        return self.run.name or self.run.run_id

    def values(self, key: str) -> list[Any]:
        return [at(row, key) for row in self.rows]


def evaluations(runs: Sequence[RunRead], metric: str, keys: CounterKeys) -> list[Evaluations]:
    """Every run's evaluations with the counter that places them. UserError if no run has the metric, or if a counter
    is missing, ambiguous, or one behind what was trained."""
    found = [_with_metric(run, metric) for run in runs]
    if not any(each.rows for each in found):
        names = list(dict.fromkeys(key for run in runs for row in run.rows.values() for key, value in row.items()
                                   if is_number(value) and not key.startswith("_")))  # fmt: skip
        raise UserError(f"no run has {metric!r} in its rows: give --column metric=KEY{hint(metric, names)}")
    counts_calls = all(_counts_calls(each.run) for each in found if each.rows)
    placed = [replace(each, axis=_axis(each, keys, counts_calls)) for each in found]
    return list(_from_zero(placed))


def examples_of(run: Evaluations, total_batch_size: int, train_examples: int) -> list[int]:
    """Examples seen at every evaluation. UserError if they fall."""
    axis = run.axis
    if axis is None:
        return []
    places = [value + axis.offset for value in run.values(axis.key)]
    if (fall := first_fall(places)) is not None:
        raise UserError(
            f"run {run.name}: {axis.key} falls from {places[fall - 1]:g} to {places[fall]:g} at W&B's step "
            f"{run.rows[fall][WANDB_STEP]}: the run was resumed from an earlier state, or it is no counter; give "
            "--column updates=KEY, epochs=KEY or examples=KEY"
        )
    if places and places[0] < 0:
        raise UserError(f"run {run.name}: {axis.key} is {places[0]:g}, below 0: it is no counter")
    one = {Counter.EXAMPLES: 1, Counter.UPDATES: total_batch_size, Counter.EPOCHS: train_examples}[axis.counter]
    return [round(place * one) for place in places]


def check_epochs(
    run: Evaluations, keys: CounterKeys, examples: Sequence[int], size: int, train_examples: int, product: str
) -> bool:
    """Whether logged epochs confirm the total batch size; UserError, with a `product` to try, if they contradict it."""
    axis = run.axis
    if axis is None or axis.counter is Counter.EPOCHS:
        return False
    key, offset = split_offset(keys.epochs) if keys.epochs else (_recognised(run, Counter.EPOCHS), 0)
    if key is None:
        return False
    epochs = [value + offset for value in run.values(key) if is_number(value)]
    if len(epochs) != len(run.rows):
        return False
    wrong = epochs_disagree(examples, epochs, train_examples, size)
    if wrong is None:
        return axis.counter is Counter.UPDATES and are_fractions(epochs)
    place = run.values(axis.key)[wrong] + axis.offset
    counted = f"{place:g} {axis.counter}" + (f" of {size:,} examples" if axis.counter is Counter.UPDATES else "")
    implied = implied_batch_size(place, epochs[wrong], train_examples)
    if axis.counter is Counter.UPDATES:
        remedy = (
            f"as with a total batch size of {implied:,.0f}: check --train-examples, or give --column "
            f"total_batch_size={product} or --column updates=KEY"
        )
    else:
        remedy = "check --train-examples, or give --column examples=KEY"
    raise UserError(
        f"run {run.name}: {counted} are {examples[wrong] / train_examples:.3g} epochs of {train_examples:,}, but {key} "
        f"is {epochs[wrong]:g}, {remedy}"
    )


def check_updates(run: Evaluations, examples: Sequence[int], size: int) -> None:
    """UserError if examples and updates of the same rows contradict each other."""
    key = _recognised(run, Counter.UPDATES) if run.axis and run.axis.counter is Counter.EXAMPLES else None
    if key is None or run.axis is None:
        return
    for seen, updates in zip(examples, run.values(key), strict=True):
        if abs(seen - updates * size) > size + 0.02 * seen:
            raise UserError(
                f"run {run.name}: {run.axis.key} is {seen:,}, but {key} is {updates:g}, hence {updates * size:,.0f} "
                f"examples at a total batch size of {size:,}: check the total batch size, or give --column updates=KEY"
            )


def _with_metric(run: RunRead, metric: str) -> Evaluations:
    """UserError if a metric is no number between others, or if two files of the run disagree about a row."""
    rows = [{**row, WANDB_STEP: step} for step, row in sorted(run.rows.items()) if at(row, metric) is not None]
    kept = [row for row in rows if is_number(at(row, metric))]
    name = run.name or run.run_id
    if is_ours(run):  # its rows are those of a journal
        return Evaluations(run, kept)
    if disputed := [row[WANDB_STEP] for row in rows if row[WANDB_STEP] in run.overwritten]:
        raise UserError(
            f"run {name}: two of its files disagree about W&B's step {disputed[0]} (it was resumed offline): sync it "
            "and import it from the server, or keep one file"
        )
    unknown = [row for row in rows if not is_number(at(row, metric))]
    if unknown and kept and unknown[0][WANDB_STEP] < kept[-1][WANDB_STEP]:
        raise UserError(
            f"run {name}: {metric} is {at(unknown[0], metric)} at W&B's step {unknown[0][WANDB_STEP]} and a number "
            "after it: exclude the run, or log the metric only where it was evaluated"
        )
    return Evaluations(run, kept, has_diverged=bool(unknown))


def _axis(run: Evaluations, keys: CounterKeys, counts_calls: bool) -> Axis | None:
    if not run.rows:
        return None
    if (given := keys.given()) is not None:
        counter, (key, offset) = given[0], split_offset(given[1])
        missing = [row for row in run.rows if not is_number(at(row, key))]
        if missing:
            raise UserError(
                f"run {run.name} has no number in {key!r} at W&B's step {missing[0][WANDB_STEP]}: give --column "
                f"{counter}=KEY{hint(key, [name for name in missing[0] if counter_of(name)])}"
            )
        return Axis(counter, key, offset, is_given=True)
    for counter in RECOGNISED:
        if (key := _recognised(run, counter)) is not None:
            return Axis(counter, key)
    if counts_calls:
        raise UserError(
            f"run {run.name}: W&B's step counts the calls of wandb.log (every step has a row), so it places no "
            "evaluation: give --column updates=KEY, epochs=KEY or examples=KEY with a key of its rows, or "
            f"--column updates={WANDB_STEP} (or {WANDB_STEP}+1) if every call was an update"
        )
    return Axis(Counter.UPDATES, WANDB_STEP)


def _recognised(run: Evaluations, counter: Counter) -> str | None:
    """The key of every evaluation that by its name counts this. UserError if two disagree, or rows lack it."""
    names = list(dict.fromkeys(name for row in run.rows for name, value in leaves("", row)
                               if name != WANDB_STEP and counter_of(name) is counter and is_number(value)))  # fmt: skip
    if not names:
        return None
    first = run.values(names[0])
    lacking = next((i for i, value in enumerate(first) if not is_number(value)), None)
    if lacking is not None:
        raise UserError(
            f"run {run.name}: evaluations have {names[0]}, but not the one at W&B's step "
            f"{run.rows[lacking][WANDB_STEP]}: give --column updates=KEY, epochs=KEY or examples=KEY"
        )
    for other in names[1:]:
        if run.values(other) != first:
            raise UserError(
                f"run {run.name}: {names[0]} and {other} of its evaluations disagree: give --column {counter}="
                f"{names[0]} or {counter}={other}"
            )
    return names[0]


def _from_zero(runs: Sequence[Evaluations]) -> Iterator[Evaluations]:
    """The runs, with 1 added to a counter that is known to begin at 0. UserError for one that seems to."""
    behind: dict[str, Evaluations] = {}
    for run in runs:
        axis = run.axis
        if (
            axis
            and not axis.is_given
            and axis.counter is not Counter.EXAMPLES
            and counts_from_zero(run.values(axis.key))
        ):
            behind.setdefault(axis.key, run)
    for run in runs:
        axis = run.axis
        if axis is None or axis.key not in behind:
            yield run
        elif axis.key in COUNTS_FROM_ZERO:
            yield replace(run, axis=replace(axis, offset=1))
        else:
            first = behind[axis.key]
            shown = ", ".join(f"{place:g}" for place in first.values(axis.key)[:3])
            raise UserError(
                f"run {first.name}: {axis.key} of its evaluations is {shown}: give --column "
                f"{axis.counter}={axis.key}+1 if it counts from 0, or {axis.counter}={axis.key} if it is right"
            )


def _counts_calls(run: RunRead) -> bool:
    """Whether W&B's step may be the number of the call: every step from the first on has a row."""
    steps = sorted(run.rows)
    return steps[0] <= 1 and steps == list(range(steps[0], steps[0] + len(steps)))


def at(values: Mapping[str, Any], key: str) -> Any:
    """A value by its dotted key, whether it is nested or its name contains the dots."""
    if key in values:
        return values[key]
    value: Any = values
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def leaves(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}", value


def hint(key: str, names: Sequence[str]) -> str:
    near = get_close_matches(key, names, 1, 0.4)
    return f" (did you mean {near[0]!r}?)" if near else f" ({', '.join(names[:8])})" if names else ""
