"""Checks, on a workload's own model and data, that splitting a batch changes nothing: probes and what they must show.

A probe is a trial of a few updates, run like any other; the checks read its journal rows. In float64 two ways to
compute the same thing agree to rounding, and a fault of the training loop, the model or the data is larger by orders
of magnitude.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from math import inf, isnan
from typing import Any

import torch

from harness.plan.batch import Placement
from harness.plan.errors import UserError
from harness.plan.instantiate import instantiate
from harness.plan.schedules import Schedule
from harness.plan.workload import Workload
from harness.train.check import Check, fault, note
from harness.train.probes import EVALUATION_BATCH, EXAMPLES, STILL, Probes
from harness.train.stream import ExampleStream, cut
from harness.train.worker import Task

# On a GPU kernels add in an order that changes from run to run (atomics), so that runs of one seed agree to rounding.
ROUNDING = 1e-2  # relative, between two runs of one seed
RUNS_APART = 10.0  # times the difference between two runs by which a resumed run may differ ...
# ... or this, where two runs happened to agree: relative, what rounding grows to in a few updates. Not measured.
ROUNDING_OF = {"float64": 1e-10, "float32": 1e-5, "tf32": 1e-3, "bf16": 1e-3, "fp16": 1e-3}
SMOOTH = "loss"  # of an evaluation's scores; others count examples, of which rounding may tip one over
UNPADDED, REPEATS = "evaluation is unpadded", "the same seed repeats"

Rows = list[dict[str, Any]]
Run = Callable[[Task], Rows]  # runs a task to its end on ranks of its own; returns all its rows
Interrupt = Callable[[Task], Rows]  # the same, interrupted after its first evaluation and started again


class ProbeError(RuntimeError):
    """A probe that did not reach its end; the text is the reason, in one line."""


SPLITS = {  # name of a check -> world size and accumulation steps
    "2 accumulation steps = one batch": (1, 2),
    "2 ranks = one batch": (2, 1),
    "2 ranks x 2 accumulation steps = one batch": (2, 2),
}
PROBES = 10  # how many `examine` runs


def examine(probes: Probes, run: Run, interrupt: Interrupt) -> Iterator[Check]:
    """Every check of the training; `run` and `interrupt` raise ProbeError for a probe that fails."""
    yield check_order(probes.workload, probes.total_batch_size)
    try:
        alone = evaluations(run(probes.split(1, 1, EXAMPLES)))
    except ProbeError as error:
        yield fault("one batch", f"cannot be trained: {error}")
        return
    for name, (world, accumulation) in SPLITS.items():
        if world > probes.ranks:
            yield note(name, "not examined: the model runs on GPUs only, and there is one")
            continue
        with _as_fault(name, checks := []):
            split = evaluations(run(probes.split(world, accumulation, EXAMPLES)))
            checks.append(check_split(name, alone, split, probes.tolerance))
        yield from checks
    with _as_fault(UNPADDED, checks := []):
        ways = ((1, EXAMPLES), (1, EVALUATION_BATCH), (probes.ranks, EVALUATION_BATCH))
        still = [evaluations(run(probes.split(world, 1, size, STILL))) for world, size in dict.fromkeys(ways)]
        checks.append(check_evaluation(*still, tolerance=probes.tolerance, counts=probes.precision == "float64"))
    yield from checks
    yield check_schedule(probes.workload)
    with _as_fault(REPEATS, checks := []):
        device, precision = probes.topology
        is_exact = device == "cpu"
        whole, again = (evaluations(run(probes.real(name))) for name in ("whole", "again"))
        checks.append(check_determinism(whole, again, is_exact))
        resumed = evaluations(interrupt(probes.real("interrupted")))
        checks += [check_resume(whole, resumed, again, is_exact, ROUNDING_OF[precision]), check_clocks(whole)]
    yield from checks


@contextmanager
def _as_fault(name: str, checks: list[Check]) -> Iterator[None]:
    """A probe that fails in the block becomes a fault."""
    try:
        yield
    except ProbeError as error:
        checks.append(fault(name, f"a probe fails: {error}"))


def evaluations(rows: Rows) -> Rows:
    return [row for row in rows if row["kind"] == "evaluation"]


def numbers(row: Mapping[str, Any], counts: bool = True) -> dict[str, float]:
    """The results in an evaluation row, flat: losses, norms and LR; other metrics, which count, where `counts`."""
    flat = {"train_loss": row["train_loss"], "lr": row["lr"]}
    scores = ((f"{w} {name}", name, value) for w, of in row["validation"].items() for name, value in of.items())
    flat |= {place: value for place, name, value in scores if counts or name == SMOOTH}
    norms = {"gradient_norm": row["diagnostics"]["gradient_norm"], **row["diagnostics"]["update_ratio"]}
    return flat | {name: value for name, value in norms.items() if value is not None}


def largest_difference(
    rows: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]], counts: bool = True
) -> tuple[float, str]:
    """The largest relative difference between the numbers of two journals, and where; infinite if one is shorter.
    `counts`: see `numbers`."""
    if len(rows) != len(others):
        return inf, f"{len(rows)} against {len(others)} evaluations"
    worst, where = 0.0, "nowhere"
    for row, other in zip(rows, others, strict=True):
        mine, theirs = numbers(row, counts), numbers(other, counts)
        for name in mine.keys() | theirs.keys():
            a, b = mine.get(name, inf), theirs.get(name, inf)
            difference = abs(a - b) / max(abs(a), abs(b), 1e-12) if a != b else 0.0
            if isnan(difference) or difference > worst:
                worst, where = inf if isnan(difference) else difference, f"{name} at update {row['step']}"
    return worst, where


def check_split(name: str, alone: Rows, split: Rows, tolerance: float) -> Check:
    """P1 to P3: gradient, loss weighting, batch norm and examples of a batch do not depend on what splits it."""
    worst, where = largest_difference(alone, split)
    place = f", {where}" if worst > tolerance else ""
    detail = f"largest relative difference {worst:.1e} over {len(alone)} updates (limit {tolerance:.0e}){place}"
    return Check(name, worst <= tolerance, detail)


def check_evaluation(
    alone: Rows, batched: Rows, shared: Rows | None = None, *, tolerance: float, counts: bool = True
) -> Check:
    """P6: metrics are means that count each example once, whatever the batch size and the number of ranks (`shared`;
    None: not examined). `counts`: whether metrics other than the loss are compared, which rounding may tip over."""

    def scores(rows: Rows) -> list[float]:
        named = [item for row in rows for score in row["validation"].values() for item in score.items()]
        return [value for name, value in named if counts or name == SMOOTH]

    def apart(rows: Rows) -> float:
        return max((abs(a - b) for a, b in zip(scores(alone), scores(rows), strict=True)), default=0.0)

    in_batches, over_ranks = apart(batched), 0.0 if shared is None else apart(shared)
    detail = f"largest difference on {EXAMPLES} examples {in_batches:.1e} in batches of {EVALUATION_BATCH}" + (
        "" if shared is None else f", {over_ranks:.1e} over 2 ranks"
    )
    return Check(UNPADDED, max(in_batches, over_ranks) <= tolerance, detail)


def check_order(workload: Workload, total_batch_size: int) -> Check:
    """P2: one stream of whole permutations; ranks and micro-batches cut it without loss or repetition."""
    size = workload.train_examples
    stream = ExampleStream(0, size, endless=False)
    whole = torch.equal(stream.positions(0, size).sort().values, torch.arange(size))
    differs = size < 3 or not (
        torch.equal(stream.permutation(0), stream.permutation(1))
        or torch.equal(stream.permutation(0), ExampleStream(1, size).permutation(0))
    )
    batch = stream.positions(0, total_batch_size)
    cuts = True
    for world, accumulation in ((1, 2), (2, 1), (2, 2), (4, 1)):
        plan = Placement(world, total_batch_size // (world * accumulation)).plan(total_batch_size, 1)
        pieces = torch.cat([cut(batch, plan, rank, 1).flatten() for rank in range(world)])
        cuts = cuts and torch.equal(pieces, batch)
    detail = (
        f"an epoch is {'a' if whole else 'NO'} permutation of {size} examples, epochs and seeds "
        f"{'differ' if differs else 'DO NOT differ'}, ranks {'share' if cuts else 'DO NOT share'} each batch"
    )
    return Check("order", whole and differs and cuts, detail)


def check_schedule(workload: Workload) -> Check:
    """P4: the schedule counts updates, and the LR at the end is the one it declares."""
    try:
        settings = workload.arm("none", workload.base_batch_size).settings
    except UserError as error:
        return Check("schedule", False, str(error))
    schedule: Schedule = instantiate(settings.schedule)
    horizon = settings.schedule.get("horizon")
    end = int(horizon) if horizon else settings.budget_steps
    peak, last = settings.peak_lr, settings.peak_lr * schedule.lr_factor(end)
    declared = getattr(schedule, "final_lr_factor", None)
    detail = f"LR {peak * schedule.lr_factor(0):.3g} at update 0, {last:.3g} after update {end}"
    if declared is None:
        return Check("schedule", 0 <= last < inf, detail)
    detail += f", declared {peak * declared:.3g}"
    return Check("schedule", abs(last - peak * declared) <= 1e-9 * peak, detail)


def check_determinism(first: Rows, second: Rows, is_exact: bool) -> Check:
    """P10: the same seed repeats: bit for bit where that `is_exact`, as on CPUs, else losses and norms to rounding."""
    worst, where = largest_difference(first, second, counts=is_exact)
    if worst == 0:
        return Check(REPEATS, True, "bit for bit")
    reason = "a CPU repeats every bit" if is_exact else "the kernels used here are not deterministic"
    return Check(REPEATS, not is_exact and worst <= ROUNDING, f"to {worst:.1e} ({where}): {reason}")


def check_resume(whole: Rows, resumed: Rows, again: Rows, is_exact: bool, rounding: float = 0.0) -> Check:
    """P9: a trial stopped after an evaluation and resumed gives the results of an uninterrupted run: the same bits, or,
    unless that `is_exact`, losses and norms that differ as those of two uninterrupted runs do (`whole` and `again`),
    which may have agreed by luck, or by `rounding`."""
    worst, where = largest_difference(whole, resumed, counts=is_exact)
    if worst == 0:
        return Check("resume = one run", True, "bit for bit")
    usual, _ = largest_difference(whole, again, counts=is_exact)
    detail = f"differs by {worst:.1e} ({where})"
    if not is_exact:
        detail += f"; two runs without interruption differ by {usual:.1e}, rounding comes to {rounding:.0e}"
    return Check("resume = one run", not is_exact and worst <= max(RUNS_APART * usual, rounding), detail)


def check_clocks(rows: Rows) -> Check:
    """P8: clocks run forward, and training and evaluation are parts of the total."""
    clocks = [row["clock"] for row in rows]
    forward = all(b[name] >= a[name] for a, b in pairwise(clocks) for name in a)
    last = clocks[-1]
    parts = last["train_s"] > 0 and last["train_s"] + last["evaluate_s"] <= last["total_s"] * (1 + 1e-6)
    named = ", ".join(f"{name.removesuffix('_s')} {value:.3f} s" for name, value in last.items())
    return Check("clocks", forward and parts, named)
