"""The trials that gpu_check.py runs: small versions of ResNet-20, ResNet-18 and a GPT, on any device."""

import gc
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import torch

from harness.datasets.examples import Splits, TensorExamples
from harness.plan.batch import plan_batch
from harness.plan.errors import UserError
from harness.plan.execution import Speed
from harness.plan.settings import Averaging, BatchNorm, Settings
from harness.plan.target import Target
from harness.plan.trial import Arm, Topology, Trial
from harness.train.learner import Learner
from harness.train.speed import check_speed
from harness.train.trainer import Execution
from harness.train.worker import Task, Worker
from harness.train.world import World

Spec = Mapping[str, Any]
Rows = list[dict[str, Any]]

SGD = {"_target_": "torch.optim.SGD", "lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
ADAMW = {"_target_": "torch.optim.AdamW", "lr": 1e-3, "weight_decay": 0.1}
IMAGES = {
    "_target_": "harness.datasets.synthetic_images.SyntheticImages",
    "train": 8192,
    "validation": 257,
    "test": 129,
}
CONTEXT = 128
TEXT = {
    "_target_": "harness.datasets.stdlib_text.StdlibText",
    "context": CONTEXT,
    "train": 4096,
    "validation": 257,
    "test": 129,
}
R20 = {"_target_": "harness.models.resnet.CifarResNet", "depth": 20}
R18 = {"_target_": "harness.models.resnet.ResNet18"}
GPT = {
    "_target_": "harness.models.gpt.GPT",
    "vocabulary": 256,
    "context": CONTEXT,
    "depth": 4,
    "width": 256,
    "heads": 4,
}
MODELS = {"resnet20": R20, "resnet18": R18, "gpt": GPT}
GROUP = 32  # examples of a ghost batch-norm group

# Options of Speed that are measured elsewhere: slow to start, of several ranks, or for memory.
NOT_VARIED = ("compile", "gradient_compression", "activation_checkpointing")
OF_IMAGES = ("channels_last", "cudnn_benchmark")  # that do nothing for a model without convolutions


class Finding(NamedTuple):
    """ok, NOTE (a number to look at), SLOW or FAIL; a line; and numbers for gpu_check.json."""

    verdict: str
    line: str
    numbers: Mapping[str, Any] = {}


def judged(is_good: bool, line: str, **numbers: Any) -> Finding:
    return Finding("ok" if is_good else "FAIL", line, numbers)


class Lab(NamedTuple):
    """Where a part runs: the device, and an empty folder of its own."""

    device: str  # cuda | cpu
    folder: Path

    @property
    def is_gpu(self) -> bool:
        return self.device == "cuda"

    @property
    def where(self) -> torch.device:
        return torch.device("cuda", 0) if self.is_gpu else torch.device("cpu")

    @property
    def half(self) -> str:
        """The precision of a GPU's trials, and one that is fast on a CPU."""
        return "bf16" if self.is_gpu else "float32"

    @property
    def models(self) -> tuple[str, ...]:
        """What a part tries; on a CPU, where this is a dry run of the script itself, one model with batch norm less."""
        return tuple(MODELS) if self.is_gpu else ("resnet20", "gpt")

    def worker(self) -> Worker:
        return Worker(0, 1, "cuda:0" if self.is_gpu else "cpu", 4)

    def settings(self, name: str, tbs: int, updates: int = 8, every: int = 2, **changed: Any) -> Settings:
        """A trial of so many updates, evaluated `every` few of them; tiny on a CPU."""
        model, is_gpt = MODELS[name], name == "gpt"
        group = GROUP
        if not self.is_gpu:
            tbs, updates, every, group = min(tbs, 32), min(updates, 2), 1, 8
            model = {**model, "depth": 1, "width": 32} if is_gpt else {**R20, "depth": 8}
        dataset = TEXT if is_gpt else IMAGES
        values = {
            "dataset": dataset if self.is_gpu else {**dataset, "train": 256},
            "model": model,
            "optimizer": ADAMW if is_gpt else SGD,
            "batch_norm": BatchNorm() if is_gpt else BatchNorm("ghost", group, statistics_examples=4 * group),
            **changed,
        }
        return Settings(
            loss="cross_entropy",
            schedule={"_target_": "harness.plan.schedules.Constant", "warmup": 4},
            total_batch_size=tbs,
            train_examples=values["dataset"]["train"],
            target=Target("accuracy", 2.0, "max"),  # out of reach: every trial uses its budget
            budget_examples=updates * tbs,
            evaluate_every_examples=every * tbs,
            averaging=Averaging(4 * tbs, "averaged"),
            **values,
        )

    def topology(self, made: Settings, precision: str, accumulation: int = 1, world: int = 1) -> Topology:
        most = made.total_batch_size // (world * accumulation)
        group = made.batch_norm.group_examples
        return Topology(
            plan_batch(made.total_batch_size, world, max_per_device=most, span_examples=group), self.device, precision
        )

    def task(self, name: str, made: Settings, precision: str, steps: int = 1, world: int = 1, **how: Any) -> Task:
        """`steps`: of accumulation; `how`: fields of Execution."""
        topology = self.topology(made, precision, steps, world)
        trial_id = Trial(Arm("", "", "", 1, 1.0, made), 0).trial_id
        return Task(trial_id, made, 0, topology, str(self.folder / name), Execution(**how))

    def learner(self, made: Settings, precision: str, speed: Speed | None = None, accumulation: int = 1) -> Learner:
        """Warmed up, on random examples that are on the device."""
        splits = resident(made, self.where)[1]
        topology = self.topology(made, precision, accumulation)
        learner = Learner(made, 0, topology, World(0, 1, self.where), splits, speed)
        learner.warm_up()
        return learner


def run(worker: Worker, task: Task) -> Rows:
    """All rows of a task."""
    worker.start(task)
    rows: Rows = []
    while not rows or rows[-1]["kind"] != "end":
        rows += worker.advance(1e9)
    return rows


def evaluated(rows: Rows, key: str) -> list[Any]:
    return [row[key] for row in rows if row["kind"] == "evaluation"]


def resident(made: Settings, where: torch.device) -> tuple[tuple[torch.Tensor, torch.Tensor], Splits]:
    """Random examples as plain tensors, for a loop by hand, and as a data set."""
    count = made.train_examples
    if "gpt" in made.model["_target_"]:
        inputs, targets = (torch.randint(256, (count, CONTEXT), device=where) for _ in range(2))
    else:
        inputs, targets = torch.randn(count, 3, 32, 32, device=where), torch.randint(10, (count,), device=where)
    examples = TensorExamples(inputs, targets)
    return (inputs, targets), Splits(examples, examples, examples, "random")


def variants(made: Settings, topology: Topology) -> Iterator[tuple[str, Speed]]:
    """No option of Speed; then every one that this version has, alone, and as many together as go together. A new
    option is tried without a change here."""
    names = [f.name for f in fields(Speed) if isinstance(f.default, bool) and f.name not in NOT_VARIED]
    if made.batch_norm.span == "none":
        names = [name for name in names if name not in OF_IMAGES]
    seen: set[Speed] = set()
    for chosen in ({}, *({name: True} for name in names), *(_most_with(name, names, made, topology) for name in names)):
        speed = Speed(**chosen)
        if speed not in seen and allows(made, topology, speed):
            seen.add(speed)
            yield named(speed), speed


def extremes(of: Iterable[tuple[str, Speed]]) -> list[tuple[str, Speed]]:
    """No option, and as many as go together."""
    return [(label, speed) for label, speed in of if label == "eager" or " + " in label]


def _most_with(first: str, names: list[str], made: Settings, topology: Topology) -> dict[str, bool]:
    """As many options together with `first` as go together."""
    chosen = {first: True}
    for name in names:
        if allows(made, topology, Speed(**{**chosen, name: True})):
            chosen[name] = True
    return chosen


def allows(made: Settings, topology: Topology, speed: Speed) -> bool:
    try:
        check_speed(made, topology, speed)
    except UserError:
        return False
    return True


def named(speed: Speed) -> str:
    return " + ".join(f.name for f in fields(Speed) if getattr(speed, f.name) is True) or "eager"


def forget() -> None:
    """Free what the last learner held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
