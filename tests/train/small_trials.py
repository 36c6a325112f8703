"""Trials small enough for a test, and what to compare of them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from processes import on_ranks

from harness.launch.gang import Gang
from harness.plan.batch import plan_batch
from harness.plan.settings import Averaging, BatchNorm, Settings
from harness.plan.target import Target
from harness.plan.trial import Arm, Topology, Trial
from harness.record.files import read_lines
from harness.train.trainer import Execution
from harness.train.worker import Task, Worker
from harness.train.world import World

# What differs between two runs of one trial.
TIMES = {"clock", "examples_per_s", "loader_fraction", "startup_s", "memory_peak_bytes", "machine", "host", "pid", "at"}
NEVER = Target("accuracy", 2.0, "max")
EVERY_EVALUATION = Execution(checkpoint_every_s=0.0)

DIGITS = {"_target_": "harness.datasets.digits.Digits", "train": 256, "validation": 70, "test": 50}
CNN = {"_target_": "harness.models.bn_cnn.BnCnn"}
MLP = {"_target_": "harness.models.mlp.MLP", "features": 64, "widths": [16], "classes": 10}
GHOST = BatchNorm("ghost", span_examples=16, statistics_examples=64)
SGD = {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9}

SMALL = Settings(
    dataset=DIGITS,
    model=CNN,
    loss="cross_entropy",
    optimizer=SGD,
    schedule={"_target_": "harness.plan.schedules.Constant", "warmup": 4},
    total_batch_size=64,
    train_examples=256,
    target=NEVER,
    budget_examples=768,
    evaluate_every_examples=128,
    batch_norm=GHOST,
    averaging=Averaging(half_life_examples=128, decide_on="averaged"),
)
WITHOUT_BATCH_NORM = replace(SMALL, model=MLP, batch_norm=BatchNorm())


def topology(settings: Settings, world: int = 1, accumulation: int = 1, precision: str = "float32") -> Topology:
    per_device = settings.total_batch_size // (world * accumulation)
    plan = plan_batch(settings.total_batch_size, world, max_per_device=per_device)
    assert plan.gradient_accumulation_steps == accumulation
    return Topology(plan, precision=precision)


def task(
    folder: Path, settings: Settings = SMALL, seed: int = 0, execution: Execution | None = None, **where: Any
) -> Task:
    """The trial of `settings` and `seed` in `folder`; `where`: see `topology`."""
    trial_id = Trial(Arm("", "", "", 1, 1.0, settings), seed).trial_id
    return Task(trial_id, settings, seed, topology(settings, **where), str(folder), execution or Execution())


def run(gang: Gang | Worker, order: Task) -> list[dict[str, Any]]:
    """All rows of a trial, from its start or its last checkpoint to its end."""
    gang.start(order)
    rows: list[dict[str, Any]] = []
    while not rows or rows[-1]["kind"] != "end":
        rows += gang.advance(1e9)
    return rows


def run_on_ranks(*orders: Task) -> list[list[dict[str, Any]]]:
    """The rows of rank 0 of trials run one after another on one gang of fresh processes."""
    return on_ranks(orders[0].topology.batch.world_size, _run_as_rank, *orders)[0]


def _run_as_rank(world: World, *orders: Task) -> list[list[dict[str, Any]]]:
    worker = Worker(world.rank, world.size, "cpu", 1)
    return [run(worker, order) for order in orders]


def evaluations(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["kind"] == "evaluation"]


def timeless(value: Any) -> Any:
    """The same without anything that says when, where or how fast."""
    if isinstance(value, Mapping):
        return {key: timeless(item) for key, item in value.items() if key not in TIMES}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def events(folder: Path, attempt: int = 1) -> list[dict[str, Any]]:
    return list(read_lines(folder / f"events.{attempt}.jsonl"))


def run_in_child(order: Task) -> None:
    """A whole trial on one rank, in a process that a test may kill."""
    run(Worker(0, 1, "cpu", 1), order)
