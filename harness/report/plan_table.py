"""dry_run=true: every arm with its resolved values, and what the sweep will take."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from harness.plan.batch import BatchPlan
from harness.plan.design import Design
from harness.plan.settings import BatchNorm
from harness.plan.trial import PlannedTrial
from harness.record.study import StudyFolder

EQUATION = "TBS = per device x workers x accumulation"


def print_plan(
    console: Console, planned: list[PlannedTrial], design: Design, folder: StudyFolder, follows: str | None = None
) -> None:
    """Arms, batch equations, LRs, warm-up, updates, evaluation grid, seeds, topology, trials and cost; `follows` says
    what a search may ask for once these are in."""
    workload = design.workload
    distinct = {p.key: p for p in planned}
    finished = sum(folder.record(p).is_finished for p in distinct.values())
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in ("rule", EQUATION, "k", "peak LR", "warm-up", "updates", "evaluated every"):
        table.add_column(title, justify="left" if title in ("rule", EQUATION) else "right", no_wrap=True)
    for p in {(p.trial.arm.label, p.topology.key): p for p in planned}.values():
        arm, settings = p.trial.arm, p.trial.arm.settings
        warmup = settings.schedule.get("warmup", 0)
        table.add_row(
            arm.scaling_rule,
            equation(p.topology.batch),
            f"{arm.batch_ratio:g}",
            f"{settings.peak_lr:.4g}",
            f"{warmup} updates",
            f"{settings.budget_steps:,}",
            f"{settings.evaluate_every_examples / settings.total_batch_size:g} updates",
        )
    console.print(table)
    examples = sum(p.trial.arm.settings.budget_examples for p in distinct.values())
    ranks = ", ".join(str(w) for w in sorted({p.topology.batch.world_size for p in distinct.values()}))
    kinds = ", ".join(sorted({f"{p.topology.device} {p.topology.precision}" for p in distinct.values()}))
    target = f"validation {workload.target} on {workload.averaging.decide_on} weights"
    per_trial = workload.budget_examples / workload.train_examples
    every = workload.evaluate_every_examples
    evaluations = workload.budget_examples // every
    grid = f"every {every:,} examples ({every / workload.train_examples:g} epochs), at most {evaluations} a trial"
    cost = f"{examples:,} training examples ({examples / workload.train_examples:,.0f} epochs) if no trial reaches"
    for line in (
        f"workload      {workload.name}: {workload.train_examples:,} training examples, loss {workload.loss}",
        f"target        {target}; budget {per_trial:g} epochs",
        f"evaluation    {grid}",
        f"batch norm    {_batch_norm(workload.batch_norm)}",
        f"averaging     half-life {workload.averaging.half_life_examples:g} examples",
        f"seeds         {', '.join(map(str, design.seeds))}",
        f"topology      {ranks} worker(s) a trial, {kinds}",
        f"trials        {len(distinct)} distinct of {len(planned)} planned, {finished} already finished",
        f"cost at most  {cost}",
        *([f"may follow    {follows}"] if follows else []),
        f"study         {folder.path}",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def equation(batch: BatchPlan) -> str:
    """The batch equation in the columns' order."""
    factors = (batch.per_device_batch_size, batch.world_size, batch.gradient_accumulation_steps)
    return f"{batch.total_batch_size} = {' x '.join(map(str, factors))}"


def _batch_norm(chosen: BatchNorm) -> str:
    if chosen.span == "none":
        return "none"
    return f"{chosen.span}, {chosen.span_examples} examples a group, statistics {chosen.statistics}"
