"""Checks, on a workload's own model and data, that splitting a batch changes nothing: probes and what they must show.

A probe is a trial of a few updates, run like any other; the checks read its journal rows. In float64 two ways to
compute the same thing agree to TOLERANCE, and a fault of the training loop, the model or the data is larger by orders
of magnitude.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf, isnan
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.datasets.examples import Batch, Dataset, Examples, Splits
from harness.plan.batch import Placement
from harness.plan.coscaling import CoScaling
from harness.plan.duration import Duration
from harness.plan.errors import UserError
from harness.plan.gradient_noise import NoiseScale
from harness.plan.instantiate import instantiate
from harness.plan.schedules import Schedule
from harness.plan.settings import Settings
from harness.plan.target import Target
from harness.plan.trial import Arm, Topology, Trial
from harness.plan.workload import Workload
from harness.train.stream import ExampleStream, cut
from harness.train.trainer import Execution
from harness.train.worker import Task

TOLERANCE = 1e-9  # relative, float64, over a few updates
EXCERPT = 101  # validation and test examples of a probe: odd, so neither two ranks nor a batch size divide them
EVALUATION_BATCH = 16
MICRO = 8  # examples of the smallest micro-batch where there is no ghost group to keep whole
STILL = 1e-12  # an LR that does not move the weights

Rows = list[dict[str, Any]]
Run = Callable[[Task], Rows]  # runs a task to its end on ranks of its own; returns all its rows
Interrupt = Callable[[Task], Rows]  # the same, interrupted after its first evaluation and started again


@dataclass(frozen=True)
class Check:
    """The result of one check; `detail` gives the numbers."""

    name: str
    passed: bool
    detail: str

    def __str__(self) -> str:
        return f"{'PASS' if self.passed else 'FAIL'}  {self.name}: {self.detail}"


@dataclass(frozen=True)
class Excerpt:
    """A data set with few validation and test examples; the training split is complete."""

    dataset: Dataset
    examples: int = EXCERPT

    def load(self) -> Splits:
        splits = self.dataset.load()
        few = {"validation": _first(splits.validation, self.examples), "test": _first(splits.test, self.examples)}
        return replace(splits, **few)


@dataclass(frozen=True)
class First:
    """The first `count` of some examples."""

    examples: Examples
    count: int

    def __len__(self) -> int:
        return self.count

    def to(self, device: torch.device, dtype: torch.dtype) -> "First":
        return First(self.examples.to(device, dtype), self.count)

    def batch(self, index: Tensor) -> Batch:
        return self.examples.batch(index)


def _first(examples: Examples, count: int) -> First:
    least = min(count, len(examples))
    return First(examples, least - (least % 2 == 0))  # odd


def without_dropout(model: nn.Module) -> nn.Module:
    """The model with its dropout modules off: across splits of a batch, dropout agrees in distribution only."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    return model


@dataclass(frozen=True)
class Probes:
    """Small trials of one workload, in `folder`."""

    workload: Workload
    folder: Path
    updates: int
    device: str  # for the probes that compare ways to split a batch
    topology: tuple[str, str]  # device and precision of the user's own trials

    @property
    def total_batch_size(self) -> int:
        """Four of the smallest micro-batches, so that two ranks with two accumulation steps are possible."""
        ghost = self.workload.batch_norm.span == "ghost"
        return 4 * (self.workload.batch_norm.span_examples if ghost else MICRO)

    def split(self, world: int, accumulation: int, evaluation_batch: int, lr: float | None = None) -> Task:
        """A probe in float64 and without dropout, which must agree whatever splits its batch."""
        name = f"w{world}-a{accumulation}-e{evaluation_batch}-{lr}"
        model = {"_target_": f"{__name__}.{without_dropout.__name__}", "model": dict(self.workload.model)}
        settings = self._settings(world, accumulation, model, lr)
        return self._task(
            name, settings, world, accumulation, (self.device, "float64"), Execution(evaluation_batch, hang_s=0.0)
        )

    def real(self, name: str) -> Task:
        """A probe on one rank, in the precision of the user's trials, with a checkpoint after every evaluation."""
        settings = self._settings(1, 1, self.workload.model, None)
        return self._task(name, settings, 1, 1, self.topology, Execution(checkpoint_every_s=0.0, hang_s=0.0))

    def _settings(self, world: int, accumulation: int, model: Mapping[str, Any], lr: float | None) -> Settings:
        size, target = self.total_batch_size, self.workload.target
        unreachable = 1e30 if target.mode == "max" else -1e30
        probe = replace(
            self.workload,
            dataset={"_target_": f"{__name__}.{Excerpt.__name__}", "dataset": dict(self.workload.dataset)},
            model=model,
            # Every update has a different LR, so that one update too many would show.
            schedule={"_target_": "harness.plan.schedules.Constant", "warmup": {"steps": 2 * self.updates}},
            target=Target(target.metric, unreachable, target.mode),
            budget=Duration(self.updates * size, "examples"),
            base_batch_size=size,
            evaluate_every_examples=size,
            exact_grid=True,
            co_scaling=CoScaling(),
            noise_scale=NoiseScale(),
            placement=Placement(world, size // (world * accumulation)),
        )
        return probe.arm_at_lr(self.workload.base_lr if lr is None else lr, size, label="doctor").settings

    def _task(
        self, name: str, settings: Settings, world: int, accumulation: int, where: tuple[str, str], how: Execution
    ) -> Task:
        size = self.total_batch_size
        batch = Placement(world, size // (world * accumulation)).plan(size, 1)
        trial_id = Trial(Arm("", "", "", 1, 1.0, settings), 0).trial_id
        return Task(trial_id, settings, 0, Topology(batch, *where), str(self.folder / name), how)


PROBES = 9  # how many `examine` runs


def examine(probes: Probes, run: Run, interrupt: Interrupt) -> list[Check]:
    """Every check; later ones rely on earlier ones."""
    alone = evaluations(run(probes.split(1, 1, EXCERPT)))
    accumulated = evaluations(run(probes.split(1, 2, EXCERPT)))
    shared = evaluations(run(probes.split(2, 1, EXCERPT)))
    checks = [
        check_order(probes.workload, probes.total_batch_size),
        check_split("2 accumulation steps = one batch", alone, accumulated),
        check_split("2 ranks = one batch", alone, shared),
    ]
    ways = ((1, EXCERPT), (1, EVALUATION_BATCH), (2, EVALUATION_BATCH))
    still = [evaluations(run(probes.split(world, 1, size, STILL))) for world, size in ways]
    checks += [check_evaluation(*still), check_schedule(probes.workload)]
    whole, again = run(probes.real("whole")), run(probes.real("again"))
    checks += [
        check_determinism(evaluations(whole), evaluations(again)),
        check_resume(evaluations(whole), evaluations(interrupt(probes.real("interrupted")))),
        check_clocks(evaluations(whole)),
    ]
    return checks


def evaluations(rows: Rows) -> Rows:
    return [row for row in rows if row["kind"] == "evaluation"]


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The results in an evaluation row, flat: losses, metrics, LR, norms."""
    flat = {"train_loss": row["train_loss"], "lr": row["lr"]}
    flat |= {f"{w} {name}": value for w, scores in row["validation"].items() for name, value in scores.items()}
    norms = {"gradient_norm": row["diagnostics"]["gradient_norm"], **row["diagnostics"]["update_ratio"]}
    return flat | {name: value for name, value in norms.items() if value is not None}


def largest_difference(rows: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> tuple[float, str]:
    """The largest relative difference between the numbers of two journals, and where; infinite if one is shorter."""
    if len(rows) != len(others):
        return inf, f"{len(rows)} against {len(others)} evaluations"
    worst, where = 0.0, "nowhere"
    for row, other in zip(rows, others, strict=True):
        mine, theirs = numbers(row), numbers(other)
        for name in mine.keys() | theirs.keys():
            a, b = mine.get(name, inf), theirs.get(name, inf)
            difference = abs(a - b) / max(abs(a), abs(b), 1e-12) if a != b else 0.0
            if isnan(difference) or difference > worst:
                worst, where = inf if isnan(difference) else difference, f"{name} at update {row['step']}"
    return worst, where


def check_split(name: str, alone: Rows, split: Rows) -> Check:
    """P1 to P3: gradient, loss weighting, batch norm and examples of a batch do not depend on what splits it."""
    worst, where = largest_difference(alone, split)
    place = f", {where}" if worst > TOLERANCE else ""
    detail = f"largest relative difference {worst:.1e} over {len(alone)} updates (limit {TOLERANCE:.0e}){place}"
    return Check(name, worst <= TOLERANCE, detail)


def check_evaluation(alone: Rows, batched: Rows, shared: Rows) -> Check:
    """P6: metrics are means that count each example once, whatever the batch size and the number of ranks."""

    def scores(rows: Rows) -> list[float]:
        return [value for row in rows for score in row["validation"].values() for value in score.values()]

    in_batches, over_ranks = (
        max(abs(a - b) for a, b in zip(scores(alone), scores(rows), strict=True)) for rows in (batched, shared)
    )
    detail = (
        f"largest difference on {EXCERPT} examples {in_batches:.1e} in batches of {EVALUATION_BATCH}, "
        f"{over_ranks:.1e} over 2 ranks"
    )
    return Check("evaluation is unpadded", max(in_batches, over_ranks) <= TOLERANCE, detail)


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


def check_determinism(first: Rows, second: Rows) -> Check:
    """P10: the same seed repeats: bit for bit on a CPU, to rounding where kernels add in varying order."""
    worst, where = largest_difference(first, second)
    kind = "bit for bit" if worst == 0 else f"to {worst:.1e} ({where}): the kernels used here are not deterministic"
    return Check("the same seed repeats", worst <= 1e-2, kind)


def check_resume(whole: Rows, resumed: Rows) -> Check:
    """P9: a trial stopped after an evaluation and resumed gives the results of an uninterrupted run."""
    worst, where = largest_difference(whole, resumed)
    detail = "bit for bit" if worst == 0 else f"differs by {worst:.1e} ({where})"
    return Check("resume = one run", worst == 0, detail)


def check_clocks(rows: Rows) -> Check:
    """P8: clocks run forward, and training and evaluation are parts of the total."""
    clocks = [row["clock"] for row in rows]
    forward = all(b[name] >= a[name] for a, b in pairwise(clocks) for name in a)
    last = clocks[-1]
    parts = last["train_s"] > 0 and last["train_s"] + last["evaluate_s"] <= last["total_s"] * (1 + 1e-6)
    named = ", ".join(f"{name.removesuffix('_s')} {value:.3f} s" for name, value in last.items())
    return Check("clocks", forward and parts, named)
