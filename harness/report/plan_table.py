"""dry_run=true: every arm with its resolved values, and what the sweep will take."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from harness.plan.batch import BatchPlan
from harness.plan.coscaling import timescale_epochs
from harness.plan.design import Design
from harness.plan.loss_choice import loss_name
from harness.plan.metrics import measured_names
from harness.plan.settings import BatchNorm, Settings
from harness.plan.target import Target
from harness.plan.trial import PlannedTrial, Topology
from harness.plan.workload import Workload
from harness.record.study import StudyFolder
from harness.report.table import print_whole
from harness.statistics import words


class Constant(NamedTuple):
    """What a constant output scores by metric, and on how many validation examples."""

    scores: Mapping[str, float]
    examples: int


EQUATION = "TBS = per device x workers x accumulation"


def print_plan(
    console: Console,
    planned: list[PlannedTrial],
    design: Design,
    folder: StudyFolder,
    follows: str | None = None,
    constant: Constant | None = None,
) -> None:
    """Arms, batch equations, LRs, warm-up, updates, evaluation grid, seeds, topology, trials and cost; `follows` says
    what a search may ask for once these are in."""
    workload = design.workload
    distinct = {p.key: p for p in planned}
    finished = sum(folder.record(p).is_finished for p in distinct.values())
    rows = {(p.trial.arm.label, p.topology.key): p for p in planned}.values()
    optimizers = [_optimizer(p.trial.arm.settings) for p in rows]
    changed = [key for key in dict.fromkeys(chain(*optimizers)) if len({o.get(key) for o in optimizers}) > 1]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in ("rule", EQUATION, "k", "peak LR", *changed, "warm-up", "updates", "evaluated every"):
        table.add_column(title, justify="left" if title in ("rule", EQUATION) else "right", no_wrap=True)
    for p, optimizer in zip(rows, optimizers, strict=True):
        arm, settings = p.trial.arm, p.trial.arm.settings
        warmup = settings.schedule.get("warmup", 0)
        table.add_row(
            " ".join([arm.scaling_rule, *arm.variant_words]),
            equation(p.topology.batch),
            f"{arm.batch_ratio:g}",
            f"{settings.peak_lr:.4g}",
            *(optimizer.get(key, "-") for key in changed),
            words.count(warmup, "update"),
            f"{settings.budget_steps:,}",
            words.count(settings.evaluate_every_examples / settings.total_batch_size, "update"),
        )
    print_whole(console, table)
    examples = sum(p.trial.arm.settings.budget_examples for p in distinct.values())
    ranks = ", ".join(str(w) for w in sorted({p.topology.batch.world_size for p in distinct.values()}))
    kinds = ", ".join(sorted({_where(p.topology) for p in distinct.values()}))
    trials = [p.trial.arm.settings for p in distinct.values()]
    stops = any(settings.stop_at_target for settings in trials)
    cost = f"{examples:,} training examples ({words.count(f'{examples / workload.train_examples:,.0f}', 'epoch')})"
    for line in (
        f"workload      {workload.name}: {workload.train_examples:,} training examples, loss "
        f"{loss_name(workload.loss)}",
        *_metrics(workload),
        f"target        {_each(map(_target, trials))}",
        *(constant_lines(constant, workload.targets) if constant and constant.scores else []),
        f"evaluation    {_each(map(_grid, trials))}",
        f"optimizer     {', '.join(_shared(optimizers[0], changed)) or 'as the table says'}",
        *_rules(design, [p.trial.arm.scaling_rule for p in rows]),
        f"batch norm    {_each(_batch_norm(settings.batch_norm) for settings in trials)}",
        f"averaging     {_each(_averaging(settings) for settings in trials)}",
        f"seeds         {', '.join(map(str, design.seeds))}",
        f"topology      {ranks} worker(s) a trial, {kinds}",
        f"trials        {len(distinct)} distinct of {len(planned)} planned, {finished} already finished",
        f"cost at most  {cost}{' if no trial reaches' if stops else ''}",
        *_measured(trials),
        *([f"may follow    {follows}"] if follows else []),
        f"study         {folder.path}",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _where(topology: Topology) -> str:
    split = f", sharding {topology.sharding}" if topology.sharding != "none" else ""
    return f"{topology.device} {topology.precision}{split}"


def _metrics(workload: Workload) -> list[str]:
    """What is measured, where the workload lists it."""
    names = measured_names(workload.loss, workload.measured)
    return [f"metrics       {', '.join(names)}"] if workload.measured else []


def constant_lines(constant: Constant, targets: Mapping[str, Target]) -> list[str]:
    """What a constant output scores, and each target that it meets."""
    scores = ", ".join(f"{name} {score:.4g}" for name, score in constant.scores.items())
    examples = words.count(constant.examples, "validation example")
    lines = [f"constant      {scores} on {examples}: what the same output for all of them scores"]
    for key, target in targets.items():
        if target.reached(constant.scores.get(target.metric)):
            lines.append(
                f"              {key} {target.metric} {target.sign} {target.value:g} is met by a constant output: "
                "it shows no learning; choose a harder one"
            )
    return lines


def _each(values: Iterable[str]) -> str:
    """What all trials share, or the few things that they do not."""
    return "; or ".join(dict.fromkeys(values)) or "none"


def _rules(design: Design, labels: Sequence[str]) -> list[str]:
    """The LR rules of these arms with their sources; nothing where no rule gave the LRs."""
    named = [f"{r.name} ({r.source})" if r.source else r.name for r in design.rules if r.name in labels]
    return [f"LR rules      {'; '.join(named)}"] if named else []


def _target(settings: Settings) -> str:
    budget = words.count(settings.budget_examples / settings.train_examples, "epoch")
    if not settings.stop_at_target:
        return f"none: to the end of {budget}"
    return f"validation {settings.target} on {settings.averaging.decide_on} weights; budget {budget}"


def _grid(settings: Settings) -> str:
    every, evaluations = settings.evaluate_every_examples, settings.budget_examples // settings.evaluate_every_examples
    epochs = words.count(every / settings.train_examples, "epoch")
    return f"every {every:,} examples ({epochs}), at most {evaluations} a trial"


def _optimizer(settings: Settings) -> dict[str, str]:
    """Its class and its arguments but the LR, in the arm's own values: what scales with the batch is in them."""
    name = str(settings.optimizer["_target_"]).rpartition(".")[2]
    rest = {key: value for key, value in settings.optimizer.items() if key not in ("_target_", "lr")}
    written = {"optimizer": name, **{key: _written(value) for key, value in rest.items()}}
    if decay := settings.optimizer.get("weight_decay"):  # with the LR it shrinks weights by, over how much data
        epochs = timescale_epochs(settings.peak_lr, decay, settings.total_batch_size, settings.train_examples)
        written["decay timescale"] = words.count(f"{epochs:.3g}", "epoch")
    return written


def _shared(optimizer: Mapping[str, str], changed: Sequence[str]) -> list[str]:
    """What all arms have in common, beside the columns of what they have not."""
    return [o if key == "optimizer" else f"{key} {o}" for key, o in optimizer.items() if key not in changed]


def _written(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_written, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _averaging(settings: Settings) -> str:
    half_life = settings.averaging.half_life_examples
    return f"half-life {words.count(half_life, 'example')}" if half_life else "none"


def equation(batch: BatchPlan) -> str:
    """The batch equation in the columns' order."""
    factors = (batch.per_device_batch_size, batch.world_size, batch.gradient_accumulation_steps)
    return f"{batch.total_batch_size} = {' x '.join(map(str, factors))}"


def _measured(trials: Sequence[Settings]) -> list[str]:
    """What measuring the gradient's noise costs beside; nothing where it is off."""
    measuring = [settings for settings in trials if settings.noise_scale.is_on]
    if not measuring:
        return []
    drawn = sum(
        settings.budget_examples
        // settings.noise_scale.frozen_every_examples
        * settings.noise_scale.frozen_units
        * (settings.batch_norm.span_examples if settings.batch_norm.span == "ghost" else 1)
        for settings in measuring
        if settings.noise_scale.frozen_units
    )
    norms = "norms of every gradient; " * any(settings.noise_scale.in_training for settings in measuring)
    return [f"noise scale   {norms}{drawn:,} examples more at frozen weights, each or each group by itself"]


def _batch_norm(chosen: BatchNorm) -> str:
    if chosen.span == "none":
        return "none"
    return f"{chosen.span}, {chosen.span_examples} examples a group, statistics {chosen.statistics}"
