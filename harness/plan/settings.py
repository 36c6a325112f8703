"""The resolved values that change the result of a training run; their hash is a trial's identity."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from math import isfinite
from typing import Any

from harness.plan.errors import UserError
from harness.plan.gradient_noise import FROZEN_BLOCKS, NoiseScale
from harness.plan.stored import check_known, from_fields
from harness.plan.target import Target

Spec = Mapping[str, Any]  # {"_target_": "package.module.Class", keyword: value, ...}, JSON values

SPANS = ("none", "ghost", "sync", "per_device")
PATHS = ("root", "folder", "archive")  # arguments of a data set that say where it is stored, not what it is
UNIDENTIFIED = (*PATHS, "worker_processes")  # arguments of a data set that change none of its bits
STATISTICS = ("reestimated", "running")


@dataclass(frozen=True)
class BatchNorm:
    """Over which examples batch norm takes its statistics in training and in evaluation (P3)."""

    span: str = "none"  # none | ghost | sync | per_device
    span_examples: int = 1  # examples per group; ghost: a setting, sync and per_device: what the topology makes of it
    statistics: str = "reestimated"  # reestimated | running
    statistics_examples: int = 0  # size of the fixed set of training examples they are re-estimated on
    half_life_examples: float = 0.0  # of the running average, where statistics = running

    @property
    def group_examples(self) -> int:
        """Every micro-batch must be a multiple of this many examples; only span ghost constrains it."""
        return self.span_examples if self.span == "ghost" else 1

    def __post_init__(self) -> None:
        if self.span not in SPANS:
            raise UserError(f"batch_norm.span must be one of {', '.join(SPANS)}, not {self.span!r}")
        if self.statistics not in STATISTICS:
            raise UserError(f"batch_norm.statistics must be one of {', '.join(STATISTICS)}, not {self.statistics!r}")
        if self.span_examples < 1:
            raise UserError(f"batch_norm.span_examples must be >= 1, not {self.span_examples}")
        reestimated = self.span != "none" and self.statistics == "reestimated"
        if reestimated and (not self.statistics_examples or self.statistics_examples % self.span_examples):
            raise UserError(
                f"batch_norm.statistics_examples {self.statistics_examples} must be a positive multiple of the "
                f"span of {self.span_examples} examples"
            )
        if self.span != "none" and self.statistics == "running" and not self.half_life_examples > 0:
            raise UserError("batch_norm.statistics=running needs batch_norm.half_life_examples > 0")


@dataclass(frozen=True)
class Averaging:
    """Exponential moving average of the weights, evaluated alongside the raw ones (P13)."""

    half_life_examples: float = 0.0  # 0: no average is kept
    decide_on: str = "raw"  # which weights decide the target: raw | averaged; declared before the run

    def __post_init__(self) -> None:
        if self.decide_on not in ("raw", "averaged"):
            raise UserError(f"averaging.decide_on must be raw or averaged, not {self.decide_on!r}")
        if not self.half_life_examples >= 0:
            raise UserError(f"averaging.half_life_examples must be >= 0, not {self.half_life_examples}")
        if self.decide_on == "averaged" and not self.half_life_examples:
            raise UserError("averaging.decide_on=averaged needs averaging.half_life_examples > 0")


@dataclass(frozen=True)
class Start:
    """Another trial's state to start from: that of `settings` and the same seed, after `examples`."""

    settings: "Settings"
    examples: int


@dataclass(frozen=True)
class Settings:
    """One arm's training run without its seed: everything that changes the numbers, with units resolved.

    Devices, paths, tracking and the name of the rule that gave the LR are not here; world size and micro-batch
    enter only through `batch_norm.span_examples` and `coupled_examples` where they change the function.
    """

    dataset: Spec
    model: Spec
    loss: str | Spec  # a name, or a loss of the user's own by `_target_`
    optimizer: Spec  # resolved: `lr` is the peak LR
    schedule: Spec  # resolved: durations are updates
    total_batch_size: int
    train_examples: int  # what one epoch is
    target: Target
    budget_examples: int
    evaluate_every_examples: int
    batch_norm: BatchNorm = field(default_factory=BatchNorm)
    averaging: Averaging = field(default_factory=Averaging)
    parameter_groups: Spec = field(default_factory=dict)  # arguments of optimizers.groups.parameter_groups
    clip_norm: float | None = None  # largest global norm of a gradient; None: not clipped
    noise_scale: NoiseScale = field(default_factory=NoiseScale)  # what is measured; not part of the identity
    stop_at_target: bool = True  # False: train to the end of the budget even after the target is reached
    adascale_ratio: int = 0  # base batches whose gradients set each update's LR (train.adascale); 0: the LR is planned
    start: Start | None = None  # None: from scratch; steps and examples count from here in either case
    keep_at_examples: Sequence[int] = ()  # evaluations whose state is kept for branches; not part of the identity
    metrics: Sequence[str | Spec] = ()  # what is measured; (): the metrics of the loss; not part of the identity
    coupled_examples: int = 0  # a micro-batch, where an example's loss depends on the others in it; else 0

    def __post_init__(self) -> None:
        peak_lr = self.optimizer.get("lr")
        if not (isinstance(peak_lr, int | float) and peak_lr > 0):
            raise UserError(f"the peak LR must be a number > 0, not {peak_lr!r}")
        if self.clip_norm is not None and not (isfinite(self.clip_norm) and self.clip_norm > 0):
            raise UserError(f"clip_norm must be a number > 0, or null for no clipping, not {self.clip_norm}")
        self._check_noise_scale()

    def _check_noise_scale(self) -> None:
        plan, span = self.noise_scale, self.batch_norm
        if plan.is_on and self.coupled_examples:
            raise UserError("noise_scale needs a loss that is a sum over examples, not one with couples: batch")
        if plan.is_on and span.span in ("sync", "per_device"):
            raise UserError(
                f"noise_scale needs batch_norm.span none or ghost, whose groups are independent, not {span.span}"
            )
        if plan.frozen_every_examples % self.evaluate_every_examples:
            raise UserError(
                f"noise_scale.frozen_every_examples={plan.frozen_every_examples} is not a multiple of "
                f"evaluate_every_examples={self.evaluate_every_examples}"
            )
        drawn = plan.frozen_units * (span.span_examples if span.span == "ghost" else 1)
        if drawn > self.train_examples:
            raise UserError(
                f"noise_scale.frozen_units={plan.frozen_units} draws {drawn} examples without replacement, more than "
                f"the {self.train_examples} of the training set: use at most "
                f"{plan.frozen_units * self.train_examples // drawn // FROZEN_BLOCKS * FROZEN_BLOCKS}"
            )

    @property
    def peak_lr(self) -> float:
        return float(self.optimizer["lr"])

    @property
    def budget_steps(self) -> int:
        """Updates until the budget is used up, the last one whole."""
        return -(-self.budget_examples // self.total_batch_size)

    def evaluation_step(self, index: int) -> int:
        """The update after which evaluation `index` (0, 1, ...) happens: the first at or beyond its grid point."""
        return -(-(index + 1) * self.evaluate_every_examples // self.total_batch_size)

    @property
    def identity(self) -> dict[str, Any]:
        """What two runs must share to compute the same numbers: everything but where the data are stored.

        A field at its default is left out, so that a setting added later does not rename the trials made before it.
        What is only measured changes no result and is never included.
        """
        dataset = {key: value for key, value in self.dataset.items() if key not in UNIDENTIFIED}
        changed = _changed(replace(self, noise_scale=NoiseScale(), start=None, keep_at_examples=(), metrics=()))
        if self.start is not None:
            changed["start"] = {"settings": self.start.settings.identity, "examples": self.start.examples}
        return {**changed, "dataset": dataset}

    @cached_property
    def identity_text(self) -> str:
        """`identity` as the text that is hashed, computed once for all seeds of an arm."""
        return canonical_text(self.identity)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Settings":
        """From `to_json` of this version or an older one; NewerFormatError for fields of a newer one."""
        nested: dict[str, Any] = {
            name: from_fields(kind, value[name], name) for name, kind in NESTED.items() if name in value
        }
        nested |= {name: tuple(value[name]) for name in ("keep_at_examples", "metrics") if name in value}
        if (start := value.get("start")) is not None:
            check_known(start, ("settings", "examples"), "start")
            nested["start"] = Start(Settings.from_json(start["settings"]), start["examples"])
        return from_fields(Settings, {**value, **nested}, "settings")


# Fields of Settings that are dataclasses of plain values.
NESTED: Mapping[str, type] = {
    "target": Target,
    "batch_norm": BatchNorm,
    "averaging": Averaging,
    "noise_scale": NoiseScale,
}


def _changed(value: Any) -> dict[str, Any]:
    """A dataclass as plain data without the fields that have their default value, recursively."""
    plain: dict[str, Any] = {}
    for field_ in fields(value):
        item = getattr(value, field_.name)
        default = field_.default_factory() if field_.default_factory is not MISSING else field_.default
        if item != default:
            plain[field_.name] = _changed(item) if is_dataclass(item) else item
    return plain


def fingerprint(value: Any, length: int = 12) -> str:
    """Hex digest of a JSON-serialisable value, independent of key order and of 1 against 1.0."""
    return digest(canonical_text(value), length)


def digest(text: str, length: int = 12) -> str:
    """The first digits of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def canonical_text(value: Any) -> str:
    """JSON that is independent of key order and of 1 against 1.0."""
    return json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value
