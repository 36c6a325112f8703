"""What makes a model train differently when its batches are split: each cause, its place, and what to do about it.

The probes of harness.train.doctor show that something is wrong; these calls of the model, in one process, show what.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.plan.errors import one_line
from harness.train.check import Check, fault, note
from harness.train.kept_state import check_state
from harness.train.learner import Learner
from harness.train.model_state import changed, comparable, snapshot
from harness.train.subject import Run, Subject, listed, seed_everything, tensors_in

MANY = 8  # examples of a batch that is compared with its parts
MICRO_BATCHES = 8  # that show which parameters get a gradient
SCALE = 1e4  # of a loss whose gradients must be scaled alike
MODES = {True: "in training", False: "in evaluation"}


def examine_model(subject: Subject) -> Iterator[Check]:
    """Every check of the model alone: a line for each fault, or one that the check has passed."""
    examples = [number % subject.settings.train_examples for number in range(MANY)]
    for name, check, passed in CHECKS:
        findings = list(check(subject, examples))
        yield from findings
        if all(finding.is_note for finding in findings):
            yield Check(name, True, passed)
        if not subject.repeats:
            yield note("model", "what depends on repeating a call was not examined: fix the above first")
            return


def check_data(subject: Subject, examples: Sequence[int]) -> Iterator[Check]:
    """P2: an example depends on its index alone, and its augmentation on (seed, epoch, example)."""
    for split in ("train", "validation", "test"):
        read = getattr(subject.splits, split)
        index = torch.arange(min(len(read), len(examples)), device=subject.world.device)
        whole, again, backwards = (tensors_in(read.batch(part)) for part in (index, index, index.flip(0)))
        if subject.differ(whole, again):
            detail = f"{split} examples change from one read to the next: draw random numbers in Splits.augment instead"
            yield fault("data", detail)
        elif _same_shapes(whole, backwards) and subject.differ(whole, [value.flip(0) for value in backwards]):
            yield fault("data", f"a {split} example depends on which others are read with it, or in which order")
    if subject.splits.augment is not None:
        yield from _check_augmentation(subject)


def _check_augmentation(subject: Subject) -> Iterator[Check]:
    learner, groups = subject.learner, 4
    index = torch.arange(groups * learner.group, device=subject.world.device) % subject.settings.train_examples

    def augmented(index: Tensor, seed: int) -> list[Tensor]:
        seed_everything(learner, seed, seed)
        epoch = torch.zeros_like(index)
        return tensors_in(learner.augmented(learner.loader.draw(index, epoch), index, epoch))

    whole, rule = augmented(index, 0), "it must be a function of (seed, epoch, example): see harness.datasets.augment"
    if subject.differ(whole, augmented(index, 1)):
        yield fault("data", f"augment draws random numbers of its own: {rule}")
        return
    for number in range(groups):  # member j of group q is at j * groups + q
        mine, alone = [value[number::groups] for value in whole], augmented(index[number::groups], 0)
        if _same_shapes(mine, alone) and subject.differ(mine, alone):
            yield fault("data", f"augment changes an example with the batch that it is in: {rule}")
            return


def _same_shapes(mine: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    return [value.shape for value in mine] == [value.shape for value in theirs]


def check_randomness(subject: Subject, examples: Sequence[int]) -> Iterator[Check]:
    """P1, P10: chance comes from torch's generator, which a trial seeds for every micro-batch, and in training only."""
    yield from _check_initial_weights(subject)
    for training, mode in MODES.items():
        call = {"examples": examples, "training": training}
        first, drawn, has_globals = _first_call(subject, examples, training)
        if has_globals:
            continue  # that is state, which is checked next
        if subject.runs_differ(first, subject.run(subject.build(), **call)):
            subject.repeats = False
            place = subject.where(call, call)
            yield fault(
                "randomness",
                f"{place} gives other outputs for the same batch and seed {mode}: it uses the "
                "time, os.urandom or another source that no seed sets; draw with torch's functions",
            )
            return
        if drawn:
            place = subject.where(call, {**call, "outside": 1})
            subject.repeats = False
            detail = f"{place} draws from {drawn} {mode}, which no trial seeds: draw with torch's functions"
            yield fault("randomness", detail)
        other_seed = subject.run(subject.build(), **call, seed=1)
        if torch.equal(first.generator, other_seed.generator):
            yield fault(
                "randomness",
                f"the model sets torch's seed in its forward {mode}, so that every update draws "
                "the same numbers: remove torch.manual_seed",
            )
        if subject.runs_differ(first, other_seed):
            subject.random_modes.add(training)
        if not training and training in subject.random_modes:
            place = subject.where(call, {**call, "seed": 1})
            yield fault(
                "randomness",
                f"{place} draws random numbers in evaluation: pass training=self.training to functional dropout, and "
                "draw noise in training only",
            )
    yield from _check_chance(subject, {"examples": examples})


def _check_chance(subject: Subject, call: Mapping[str, Any]) -> Iterator[Check]:
    one, other = (subject.run(subject.build_without_dropout(), **call, seed=seed) for seed in (0, 1))
    if subject.runs_differ(one, other):
        subject.has_chance = True
        place = subject.where(call, {**call, "seed": 1}, dropout=False)
        yield note(
            "randomness",
            f"{place} draws random numbers in training: over splits of a batch they agree in distribution only, so "
            "they are off in what follows",
        )


def _check_initial_weights(subject: Subject) -> Iterator[Check]:
    one, other = (subject.build_anew().model.state_dict() for _ in range(2))
    if names := [name for name in one if not torch.equal(one[name], other[name])]:
        yield fault(
            "randomness",
            f"the initial {listed(names)} of two models with one seed differ, so ranks would "
            "start from different weights: draw them in the constructor with torch's global generator",
        )


def _first_call(subject: Subject, examples: Sequence[int], training: bool) -> tuple[Run, str, bool]:
    """A call, the generators other than torch's that it draws from (in words), and whether it changes a global."""
    learner = subject.build()
    before = snapshot(learner.model)
    run = subject.run(learner, examples, training=training)
    after = [comparable(np.random.get_state()), comparable(random.getstate())]
    seed_everything(learner, 0, 0)
    undrawn = [comparable(np.random.get_state()), comparable(random.getstate())]
    names = ("numpy.random", "Python's random module")
    drawn = " and ".join(name for name, a, b in zip(names, after, undrawn, strict=True) if a != b)
    return run, drawn, any(kept.kind == "global" for kept in changed(before, snapshot(learner.model)))


def check_coupling(subject: Subject, examples: Sequence[int]) -> Iterator[Check]:
    """P1: an example's outputs, and what it adds to the loss, do not depend on the batch that it is in."""
    if subject.learner.loss.couples != "none":
        subject.couples = True
        yield note(
            "coupling", "the loss couples the examples of a micro-batch, as it declares: splits of a batch differ"
        )
    found: dict[str, list[str]] = {}  # a fault -> the modes that have it
    for training, mode in MODES.items():
        if reason := _coupled(subject, examples, training):
            found.setdefault(reason, []).append(mode)
    for reason, modes in found.items():
        yield fault("coupling", f"{' and '.join(modes)}, {reason}")


def _coupled(subject: Subject, examples: Sequence[int], training: bool) -> str | None:
    """How examples that share a batch change each other in one mode; None if they do not."""
    call = {"training": training, "still": training in subject.random_modes}
    whole = subject.run(subject.learner, examples, **call)
    try:
        alone = [subject.run(subject.learner, [example], **call) for example in examples]
    except Exception as error:
        return None if training else f"a batch of one example fails, and the last batch may be one: {one_line(error)}"
    if row := _first_coupled(subject, whole, alone):
        subject.couples |= training
        place = subject.where({**call, "examples": examples}, {**call, "examples": [examples[row - 1]]}, row - 1)
        return (
            f"{place} makes an example's outputs depend on {_coupled_to(subject, examples, row - 1, call)}: compute "
            "every example from itself alone (for batch statistics use torch's own batch norm, whose span P3 sets)"
        )
    if not subject.couples and subject.differ([whole.total], [torch.stack([run.total for run in alone]).sum()]):
        subject.couples |= training
        return (
            "the loss of a batch is not the sum over its examples, whose outputs are the same alone: workload.loss "
            "must add up"
        )
    return None


def _first_coupled(subject: Subject, whole: Run, alone: Sequence[Run]) -> int:
    """The number, from 1, of the first example whose outputs differ in the batch and alone; 0 if there is none."""
    for row, run in enumerate(alone):
        rows = [value[row : row + 1] for value in whole.outputs if value.dim() and len(value) == len(alone)]
        if len(rows) == len(run.outputs) and _same_shapes(rows, run.outputs) and subject.differ(rows, run.outputs):
            return row + 1
    return 0


def _coupled_to(subject: Subject, examples: Sequence[int], row: int, call: dict[str, bool]) -> str:
    """What of its batch the outputs of an example depend on."""

    def outputs(batch: Sequence[int]) -> list[Tensor]:
        return [value for value in subject.run(subject.learner, batch, **call).outputs if value.dim()]

    count, size = len(examples), subject.settings.train_examples
    if subject.differ(outputs(examples), [value.flip(0) for value in outputs(examples[::-1])]):
        return "its place in the batch"
    others = [example if number == row else (example + count) % size for number, example in enumerate(examples)]
    copies = [examples[row]] * count
    alone, first, second, copied = (
        [value[number] for value in outputs(batch)]
        for batch, number in (([examples[row]], 0), (examples, row), (others, row), (copies, row))
    )
    depends_on_number = subject.differ(alone, copied) and not subject.differ(first, second)
    return "how many examples are in the batch" if depends_on_number else "the other examples of its batch"


def check_gradients(subject: Subject, examples: Sequence[int]) -> Iterator[Check]:
    """P1: gradients add up over examples, and are proportional to the loss, whose weight depends on ranks and TBS."""
    if subject.couples:
        return  # then they do not add up, for a reason that has been given
    learner, still = subject.learner, True in subject.random_modes
    whole = subject.run(learner, examples, still=still).gradients
    scaled = subject.run(subject.learner, examples, still=still, scale=SCALE).gradients
    reason, expected = "is not proportional to the loss", {name: slope / SCALE for name, slope in scaled.items()}
    wrong = _wrong(subject, whole, expected)
    if not wrong:
        try:
            alone = [subject.run(subject.learner, [example], still=still).gradients for example in examples]
        except Exception:
            return  # reported with evaluation, where it matters
        zeros = {name: torch.zeros_like(slope) for name, slope in whole.items()}
        expected = {name: sum((part[name] for part in alone if name in part), zero) for name, zero in zeros.items()}
        reason, wrong = "is not the sum over its examples", _wrong(subject, whole, expected)
    if wrong:
        hooked = _gradient_hooks(learner.model)
        source = (
            f"through a gradient hook on {listed(hooked)}"
            if hooked
            else (
                "with the same outputs: by a hook on an activation, a backward of your own, or a detach that "
                "depends on the batch"
            )
        )
        yield fault(
            "gradients",
            f"the gradient of {listed(wrong)} in a batch {reason}, {source}; clip gradients with "
            "workload.clip_norm, which sees the whole batch",
        )


def _wrong(subject: Subject, slopes: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Parameters whose gradients differ by more than the rounding of the largest gradient."""
    size = max((slope.abs().max().item() for slope in expected.values() if slope.numel()), default=0.0)
    limit = subject.tolerance * size
    return [name for name in slopes if not (slopes[name] - expected[name]).abs().max().item() <= limit]


def _gradient_hooks(model: nn.Module) -> list[str]:
    """Parameters and modules with a hook on their gradients."""
    parameters = [
        name
        for name, p in model.named_parameters()
        if p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None)
    ]
    modules = [name or "the model" for name, m in model.named_modules() if m._backward_hooks or m._backward_pre_hooks]
    return parameters + modules


def check_parameters(subject: Subject, examples: Sequence[int]) -> Iterator[Check]:
    """Which parameters are trained, on micro-batches with the chance that training has."""
    count = _times_trained(subject, examples, subject.build())
    unused = {name for name, times in count.items() if not times}
    if unused:  # a router may not have chosen them yet: other weights choose differently
        learner = subject.build()
        with torch.no_grad():
            for parameter in learner.model.parameters():
                parameter.add_(torch.randn_like(parameter) * parameter.std(correction=0))
        others = _times_trained(subject, examples, learner)
        unused = {name for name in unused if not others[name]}
    if unused:
        names = listed(name for name in count if name in unused)
        yield fault(
            "parameters",
            f"unused: {names} got no gradient in any of {MICRO_BATCHES} micro-batches: use it in "
            "forward, remove it, or freeze it with parameter_groups.frozen",
        )
    if seldom := [name for name, times in count.items() if times < MICRO_BATCHES and name not in unused]:
        yield note(
            "parameters",
            f"sometimes unused: {listed(seldom)} got no gradient in some of {MICRO_BATCHES} micro-batches; with "
            "several ranks, every update looks for such parameters, which takes time",
        )


def _times_trained(subject: Subject, examples: Sequence[int], learner: Learner) -> dict[str, int]:
    """The number of micro-batches that gave each parameter a gradient."""
    count = {name: 0 for name, p in learner.model.named_parameters() if p.requires_grad}
    for number in range(MICRO_BATCHES):
        drawn = [(number * len(examples) + example) % subject.settings.train_examples for example in examples]
        for name in subject.run(learner, drawn, seed=number).gradients:
            count[name] += 1
    return count


CHECKS: tuple[tuple[str, Callable[[Subject, Sequence[int]], Iterator[Check]], str], ...] = (
    ("data", check_data, "an example is the same whenever and with whatever others it is read"),
    ("randomness", check_randomness, "none that a trial does not seed, and none in evaluation"),
    ("state", check_state, "earlier calls change no output and no gradient"),
    ("coupling", check_coupling, "an example gives the same alone and in a batch"),
    ("gradients", check_gradients, "the gradient of a batch is the sum over its examples"),
    ("parameters", check_parameters, "every parameter that is trained gets a gradient"),
)
