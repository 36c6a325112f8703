"""Whether earlier calls of a model change later ones, and through what (P33).

A buffer is in every checkpoint and agreed on by the ranks at evaluations; an attribute or a global is neither.
"""

import contextlib
import io
from collections.abc import Iterator, Sequence

from harness.train.check import Check, fault
from harness.train.learner import Learner
from harness.train.model_state import (
    Kept,
    changed,
    holder_of,
    number_of,
    set_number,
    snapshot,
)
from harness.train.subject import Run, Subject, listed, set_mode

CALLS = 10  # of one model, of which the last must equal the first
COUNTED = 4  # of the last of them, in which a counter changes every time
AHEAD = (1, 2, 3, 5, 10, 30, 100, 300, 1_000, 10_000, 1_000_000)  # calls by which a counter is put forward
LASTING = ("buffer", "attribute", "global")  # an attribute may follow from buffers, as in spectral_norm


class History:
    """One model and the calls made of it so far; `reference`: what the first calls of a fresh one give."""

    def __init__(self, subject: Subject, examples: Sequence[int]) -> None:
        self.subject = subject
        self.examples = list(examples)
        size = subject.settings.train_examples
        self.others = [(number + len(self.examples)) % size for number in self.examples]
        fresh = subject.build()
        self.reference: dict[bool, Run] = {}
        self.left: dict[bool, list[Kept]] = {}  # what a single call changes
        for training in (False, True):
            set_mode(fresh.model, training)
            before = snapshot(fresh.model)
            self.reference[training] = subject.run(fresh, self.examples, training=training)
            self.left[training] = changed(before, snapshot(fresh.model))
        self.learner: Learner = subject.build()
        self.start = snapshot(self.learner.model)

    def repeat(self, calls: int) -> list[Kept]:
        """Make more calls on other examples; returns the numbers that each of the last ones changed."""
        counters: set[Kept] | None = None
        for number in range(calls):
            before = snapshot(self.learner.model) if calls - number <= COUNTED else None
            self.subject.run(self.learner, self.examples if number % 2 else self.others)
            if before is not None:
                moved = set(changed(before, snapshot(self.learner.model)))
                counters = moved if counters is None else counters & moved
        return [kept for kept in self.changed() if kept in (counters or ()) and self._number(kept) is not None]

    def changed(self) -> list[Kept]:
        """What the calls so far have changed."""
        return [kept for kept in changed(self.start, snapshot(self.learner.model)) if kept.kind in LASTING]

    def influenced(self) -> str:
        """Where calls now give something else than the first ones did: in training, in evaluation, or nowhere."""
        places = {True: "in training", False: "in evaluation"}
        names = [name for training, name in places.items() if self._differs(training)]
        return " and ".join(names)

    def _differs(self, training: bool) -> bool:
        try:
            again = self.subject.run(self.learner, self.examples, training=training)
        except Exception:  # what worked at first and now fails is another result
            return True
        return self.subject.runs_differ(self.reference[training], again)

    def causes(self) -> list[Kept]:
        """What is enough to put back for the first results: one thing, else all of one kind, else all that changed."""
        items = self.changed()
        if enough := [kept for kept in items if self._is_enough([kept])]:
            return enough
        for kind in LASTING:
            of_kind = [kept for kept in items if kept.kind == kind]
            if of_kind and self._is_enough(of_kind):
                return of_kind
        return items

    def _is_enough(self, items: Sequence[Kept]) -> bool:
        """Whether calls give the first results again in both modes, once `items` are put back before each of them."""
        for training in (True, False):
            if not all(self._put_back(kept) for kept in items) or self._differs(training):
                return False
        return True

    def _put_back(self, kept: Kept) -> bool:
        """Set one thing to its first value; False if that is not known."""
        if kept.kind == "global":
            if self._number(kept) is None or not isinstance(self.start.get(kept), int | float):
                return False
            set_number(self.learner.model, kept, self.start[kept])
            return True
        fresh, used = (holder_of(model, kept) for model in (self.subject.build().model, self.learner.model))
        if not hasattr(fresh, kept.name):
            delattr(used, kept.name)
            return True
        setattr(used, kept.name, getattr(fresh, kept.name))
        return True

    def _number(self, kept: Kept) -> float | None:
        return number_of(self.learner.model, kept)

    def ahead(self, kept: Kept) -> int | None:
        """By how many calls a counter must be put forward to change a result; None if it never does."""
        model, now = self.learner.model, self._number(kept)
        self.subject.run(self.learner, self.examples)
        then = self._number(kept)
        if now is None or then is None:
            return None
        step = then - now
        flags = [p.requires_grad for p in model.parameters()]
        for calls in AHEAD:
            set_number(model, kept, then + calls * step)
            with contextlib.redirect_stdout(io.StringIO()):  # such as a line that the model logs every 100 calls
                differs = bool(self.influenced())
            if differs or flags != [p.requires_grad for p in model.parameters()]:
                set_number(model, kept, then)
                return calls
        set_number(model, kept, then)
        return None


def check_state(subject: Subject, examples: Sequence[int]) -> Iterator[Check]:
    """P33: the same batch gives the same outputs and gradients whatever was called before."""
    history = History(subject, examples)
    yield from _left_behind(history)
    counters = history.repeat(CALLS)
    causes: list[Kept] = []
    if when := history.influenced():
        subject.keeps_state = True
        causes = history.causes()
        subject.repeats = bool(causes) and all(kept.kind != "global" for kept in causes)
        if not causes:
            yield fault(
                "state",
                f"earlier calls change what a call gives {when}, through something that is neither in the model nor a "
                "global of its files: compute everything from the batch",
            )
        else:
            yield fault(
                "state",
                f"{_named(causes)} {_verb(causes)} what earlier calls left, which changes what a call "
                f"gives {when}: {remedy(causes[0])}",
            )
    for kept in counters:
        if kept not in causes and (calls := history.ahead(kept)) is not None:
            subject.keeps_state = True
            yield fault(
                "state", f"{kept} counts calls and changes what a call gives after about {calls} more: {remedy(kept)}"
            )


def _named(causes: Sequence[Kept]) -> str:
    return listed(map(str, causes))


def _verb(causes: Sequence[Kept]) -> str:
    return "keeps" if len(causes) == 1 else "keep"


def remedy(kept: Kept) -> str:
    """What to do about state that changes results."""
    if kept.kind == "buffer":
        return (
            "such state is updated by every micro-batch of every rank, so results depend on how a batch is split; "
            "compute it from each example alone, or use a layer without memory, such as GroupNorm or LayerNorm"
        )
    return (
        "such state is in no checkpoint and differs between ranks; compute it from the batch, or keep it in a buffer "
        "(register_buffer)"
    )


def _left_behind(history: History) -> Iterator[Check]:
    """Faults that a single call shows: modes, parameters and hooks that it changes for good."""
    for training, left in history.left.items():
        mode, other = ("training", "evaluation") if training else ("evaluation", "training")
        names = {kind: [kept for kept in left if kept.kind == kind] for kind in ("mode", "parameter", "hooks")}
        if kept := names["mode"]:
            yield fault(
                "state",
                f"a forward pass in {mode} leaves {listed(k.owner or 'the model' for k in kept)} in "
                f"{other} mode: remove .eval() and .train() from forward, or restore the mode in it",
            )
        if kept := names["parameter"]:
            yield fault(
                "state",
                f"a forward pass in {mode} changes {listed(map(str, kept))} (values, requires_grad or "
                "hooks), on which ranks would then disagree: leave parameters to the optimizer, and use no "
                "max_norm in embeddings",
            )
        if kept := names["hooks"]:
            yield fault(
                "state",
                f"every forward pass in {mode} adds a hook to "
                f"{listed(k.owner or 'the model' for k in kept)}: register hooks once, in the constructor, or "
                "remove them after use",
            )
