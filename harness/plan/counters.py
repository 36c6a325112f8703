"""Which counter places an evaluation in a log that others wrote, and whether the counters of one log agree (P30).

Frameworks count differently: `step` may be optimizer updates, epochs or calls of the logger, from 0 or from 1. What a
name or a pattern does not settle is rejected, with the key to name.
"""

import math
import re
from collections.abc import Iterable, Sequence
from enum import StrEnum
from itertools import pairwise


class Counter(StrEnum):
    """What a position counts."""

    UPDATES = "updates"
    EPOCHS = "epochs"
    EXAMPLES = "examples"
    TOKENS = "tokens"


# Whole names, after `train/` and the like: `eval/step` may count evaluations, and `num_epochs` is a setting.
NAMES = {
    Counter.UPDATES: "steps? global_steps? _step updates? num_updates n_updates iterations? iters? iter_num step_num "
    "optimi[sz]er_steps? opt_steps? train_steps? training_steps? completed_steps",
    Counter.EPOCHS: "epochs? epoch_num fraction_of_epoch",
    Counter.EXAMPLES: "examples? samples? sequences images (examples|samples|images|sequences)_seen "
    "(seen|consumed)_(examples|samples|images|sequences)",
    Counter.TOKENS: "tokens? tokens_seen (seen|consumed)_tokens num_(input_)?tokens_seen",
}
PATTERNS = {counter: re.compile("|".join(f"(?:{name})" for name in names.split())) for counter, names in NAMES.items()}
PREFIX = re.compile(r"(train|trainer|training|time|progress|epoch|global)[/.]")
COUNTS_FROM_ZERO = ("trainer/global_step",)  # Lightning: an evaluation after 32 updates is logged at 31
ROUNDING = 0.0101  # of logged epochs: some trainers round them to two decimals


def plain_name(name: str) -> str:
    """A column or key as it is compared with known names: lower case, `_` for other separators, without `train/`."""
    text = re.sub(r"[ -]+", "_", name.strip().lower())
    return "updates" if text == "time/batch" else PREFIX.sub("", text, count=1)


def counter_of(name: str) -> Counter | None:
    """What a column or key of this name counts; None for unknown names."""
    plain = plain_name(name)
    return next((counter for counter, pattern in PATTERNS.items() if pattern.fullmatch(plain)), None)


def split_offset(key: str) -> tuple[str, int]:
    """`epoch+1` as its key and what is added: counters that begin at 0 are one behind what has been trained."""
    match = re.fullmatch(r"(.+?)\s*\+\s*(\d+)", key)
    return (match.group(1), int(match.group(2))) if match else (key, 0)


def counts_from_zero(places: Iterable[float]) -> bool:
    """Whether the places of a run's evaluations look like a counter that is one behind: 31, 63, 95, or 0, 1, 2."""
    distinct = sorted(set(places))
    if not distinct or any(place != int(place) for place in distinct):
        return False
    gaps = [int(b - a) for a, b in pairwise(distinct)]
    if not gaps:
        return distinct == [0]
    usual = max(set(gaps), key=gaps.count)
    if usual == 1:
        return distinct[0] == 0
    return sum((place + 1) % usual == 0 for place in distinct) > len(distinct) / 2


def first_fall(places: Sequence[float]) -> int | None:
    """Index of the first place that is below the one before; None if places never fall."""
    return next((i for i in range(1, len(places)) if places[i] < places[i - 1]), None)


def epochs_disagree(
    examples: Sequence[float], epochs: Sequence[float], train_examples: int, total_batch_size: int
) -> int | None:
    """Index of the first evaluation whose logged epochs are not its examples / train_examples; None if all agree.

    A fraction agrees within rounding and within partial batches, which make an epoch longer than its examples. Whole
    numbers may be the epoch that runs, counted from 0 or from 1, but the same way throughout.
    """
    per_epoch = train_examples / total_batch_size
    least = math.floor(per_epoch) / per_epoch or 1.0
    most = math.ceil(per_epoch) / per_epoch
    one = total_batch_size / train_examples  # an update, in epochs
    slack = ROUNDING + one
    trained = [seen / train_examples for seen in examples]

    def first(low: float, high: float) -> int | None:
        for i, (seen, logged) in enumerate(zip(trained, epochs, strict=True)):
            if not seen / most - slack + low <= logged <= seen / least + slack + high:
                return i
        return None

    if all(logged == int(logged) for logged in epochs):
        counted = [first(-1.0, 0.0), first(0.0, 1.0)]
        return None if None in counted else max(i for i in counted if i is not None)
    return first(0.0, 0.0)


def implied_batch_size(updates: float, epochs: float, train_examples: int) -> float:
    """The total batch size with which `updates` would be `epochs`."""
    return epochs * train_examples / updates if updates else math.nan


def are_fractions(epochs: Iterable[float]) -> bool:
    """Whether epochs are measured finely enough to verify a total batch size."""
    return any(logged != int(logged) for logged in epochs)
