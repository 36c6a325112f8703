"""Arm, trial, topology: what is compared, what is run, and where."""

import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

from harness.plan.batch import BatchPlan
from harness.plan.errors import UserError
from harness.plan.settings import Settings, canonical_text, digest
from harness.plan.stored import check_known, from_fields

# tf32: float32 with matrix products in TF32, on GPUs. bf16, fp16: float32 weights, half precision in the forward and
# backward pass by autocast; fp16 scales its loss.
PRECISIONS = ("float32", "tf32", "float64", "bf16", "fp16")

# none: every rank holds the whole model. full: weights, gradients, optimizer state and average are split over ranks.
SHARDINGS = ("none", "full")


@dataclass(frozen=True)
class Arm:
    """A trial without its seed: the labels it is reported under and the resolved settings that run.

    Two arms may share settings (at k = 1 every rule gives the base LR); they then share their trials.
    """

    workload: str
    optimizer: str
    scaling_rule: str  # none | sqrt | linear | power(p) | tuned | ...
    base_batch_size: int
    base_lr: float
    settings: Settings
    variant: Mapping[str, Any] = field(default_factory=dict)  # what else an experiment varied, for its tables

    @property
    def total_batch_size(self) -> int:
        return self.settings.total_batch_size

    @property
    def batch_ratio(self) -> float:
        return self.settings.total_batch_size / self.base_batch_size

    @property
    def label(self) -> str:
        return " ".join([f"{self.scaling_rule} TBS {self.total_batch_size}", *self.variant_words])

    @property
    def variant_words(self) -> list[str]:
        """`key=value` of what distinguishes the arm in addition to its rule and total batch size."""
        texts = {key: f"{value:g}" if isinstance(value, float) else value for key, value in self.variant.items()}
        return [f"{key}={text}" for key, text in texts.items()]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Arm":
        return from_fields(Arm, {**value, "settings": Settings.from_json(value["settings"])}, "arm")


@dataclass(frozen=True)
class Trial:
    """Arm + seed. Initialisation and data order follow the seed; the split does not (P10)."""

    arm: Arm
    seed: int

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UserError(f"seeds must be integers >= 0, not {self.seed}")

    @cached_property
    def trial_id(self) -> str:
        """Hash of the resolved values and the seed: equal exactly when the same numbers would be computed."""
        return digest(f'{{"seed":{self.seed},"settings":{self.arm.settings.identity_text}}}')

    @property
    def label(self) -> str:
        return f"{self.arm.label} seed {self.seed}"


@dataclass(frozen=True)
class Topology:
    """Where and in which precision a trial runs: the same trial elsewhere is a replica, never pooled with it."""

    batch: BatchPlan
    device: str = "cpu"  # cpu | cuda
    precision: str = "float32"
    sharding: str = "none"

    def __post_init__(self) -> None:
        if self.device not in ("cpu", "cuda"):
            raise UserError(f"device must be cpu or cuda, not {self.device!r}")
        if self.precision not in PRECISIONS:
            raise UserError(f"precision must be one of {', '.join(PRECISIONS)}, not {self.precision!r}")
        if self.precision == "tf32" and self.device != "cuda":
            raise UserError("precision tf32 is available on GPUs only: use float32 or bf16 on a CPU")
        check_sharding(self.sharding)
        if self.sharding == "full" and self.batch.world_size == 1:
            raise UserError(
                f"cluster.sharding=full splits a model over the workers of a trial, but TBS "
                f"{self.batch.total_batch_size} has one: use cluster.workers_per_trial >= 2, or cluster.sharding=none"
            )

    @property
    def key(self) -> str:
        """Folder name of the replica, e.g. `cpu-w2-b16-a4-float32`; with sharding `cuda-w8-b4-a1-bf16-full`."""
        batch = self.batch
        shape = f"w{batch.world_size}-b{batch.per_device_batch_size}-a{batch.gradient_accumulation_steps}"
        return f"{self.device}-{shape}-{self.precision}{'-full' if self.sharding == 'full' else ''}"

    @staticmethod
    def from_key(key: str) -> "Topology":
        """The topology whose `key` this is; UserError if it is none."""
        found = re.fullmatch(r"(cpu|cuda)-w(\d+)-b(\d+)-a(\d+)-(\w+)", key)
        if found is None:
            raise UserError(f"{key!r} is not the key of a topology")
        size, micro, accumulation = map(int, found.group(2, 3, 4))
        return Topology(BatchPlan(size * micro * accumulation, micro, size, accumulation), found[1], found[5])

    def to_json(self) -> dict[str, Any]:
        """Without `sharding` where it is none, as versions wrote it that knew no other."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("sharding", "none")}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Topology":
        batch = from_fields(BatchPlan, value["batch"], "batch")
        return from_fields(Topology, {**value, "batch": batch}, "topology")


def check_sharding(sharding: str) -> None:
    """Raises UserError for a value that `cluster.sharding` does not have."""
    if sharding not in SHARDINGS:
        raise UserError(f"cluster.sharding must be one of {', '.join(SHARDINGS)}, not {sharding!r}")


@dataclass(frozen=True)
class PlannedTrial:
    """A trial and its topology: one unit of work, one line of plan.jsonl."""

    trial: Trial
    topology: Topology

    @property
    def key(self) -> str:
        """Path of its folder under trials/."""
        return f"{self.trial.trial_id}/{self.topology.key}"

    def to_json(self) -> dict[str, Any]:
        return {
            "trial_id": self.trial.trial_id,
            "seed": self.trial.seed,
            "arm": self.trial.arm.to_json(),
            "topology": self.topology.to_json(),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any], arm: Arm | None = None) -> "PlannedTrial":
        """From `to_json` of this version or an older one; `arm`: the row's arm, if it has already been read."""
        check_known(value, ("trial_id", "seed", "arm", "topology"), "plan.jsonl")
        trial = Trial(arm or Arm.from_json(value["arm"]), value["seed"])
        return PlannedTrial(trial, Topology.from_json(value["topology"]))


def plan_key(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """What makes two lines of plan.jsonl the same: trial, topology and labels of the arm.

    Not the settings, which the trial_id represents: a line written before a setting existed is still the same line.
    """
    labels = {}
    for label in (field_ for field_ in fields(Arm) if field_.name != "settings"):
        default = label.default_factory() if label.default_factory is not MISSING else label.default
        given = row["arm"].get(label.name, default)
        if given != default:
            labels[label.name] = given
    return row["trial_id"], Topology.from_json(row["topology"]).key, canonical_text(labels)
