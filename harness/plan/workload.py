"""A workload and how it becomes arms: data, split, model, loss, metric, target, budget, base LR."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite, lcm
from typing import Any

from harness.plan.batch import BatchPlan, Placement, nearest
from harness.plan.coscaling import (
    CoScaling,
    check_adascale,
    co_scale,
    co_scale_averaging,
    co_scale_warmup,
)
from harness.plan.duration import Duration, is_duration, to_steps
from harness.plan.errors import UserError
from harness.plan.gradient_noise import NoiseScale
from harness.plan.loss_choice import check_loss, couples_examples, loss_name
from harness.plan.metrics import METRICS, check_metrics, choice, metric_name, range_of, with_needed
from harness.plan.scaling import Rule, rule_named
from harness.plan.settings import Averaging, BatchNorm, Settings, Spec
from harness.plan.target import Target, check_possible
from harness.plan.trial import Arm


@dataclass(frozen=True, kw_only=True)
class WorkloadConfig:
    """What a configuration says about a workload besides its dataset, model, optimizer and schedule."""

    name: str
    loss: str | Spec  # a name, or a loss of the user's own by `_target_`
    target: Target
    budget: Duration
    base_batch_size: int
    base_lr: float
    evaluate_every_examples: int
    exact_grid: bool = True  # False: evaluate at the first update beyond each grid point
    batch_norm: BatchNorm = field(default_factory=BatchNorm)
    averaging: Averaging = field(default_factory=Averaging)
    clip_norm: float | None = Settings.clip_norm  # largest global norm of a gradient, the same at every TBS
    stop_at_target: bool = Settings.stop_at_target  # False: every trial uses up its budget, as range tests need
    noise_scale: NoiseScale = field(default_factory=NoiseScale)  # what every trial also measures; changes no result
    metrics: Sequence[str | Spec] = ()  # what is measured next to the loss, by name or `_target_`; (): as the loss says
    # What a sweep over total batch sizes takes where it names none itself; changes no trial.
    total_batch_sizes: Sequence[int] = field(default_factory=lambda: [16, 32, 64, 128, 256, 512])
    read_beside: Target | None = None  # a second target read from the same evaluations; never stops a trial

    def __post_init__(self) -> None:
        for key, value in (("loss", self.loss), *(("metrics", metric) for metric in self.metrics)):
            is_spec = isinstance(value, Mapping) and isinstance(value.get("_target_"), str)
            if not (is_spec or (isinstance(value, str) and value)):
                raise UserError(f"workload.{key} must be a name or a mapping with a _target_, not {value!r}")
        check_loss(self.loss)
        check_metrics(self.metrics)
        if not (isfinite(self.base_lr) and self.base_lr > 0):
            raise UserError(f"workload.base_lr must be a number > 0, not {self.base_lr}")
        if self.base_batch_size < 1:
            raise UserError(f"workload.base_batch_size must be >= 1, not {self.base_batch_size}")
        if self.evaluate_every_examples < 1:
            raise UserError(f"workload.evaluate_every_examples must be >= 1, not {self.evaluate_every_examples}")

    @property
    def targets(self) -> dict[str, Target]:
        """The targets by their place in a configuration."""
        beside = {} if self.read_beside is None else {"workload.read_beside": self.read_beside}
        return {"workload.target": self.target, **beside}

    @property
    def measured(self) -> tuple[str | Spec, ...]:
        """The metrics of a trial's Settings: those listed, and those that the targets need."""
        return with_needed(self.loss, self.metrics, [target.metric for target in self.targets.values()])

    def check_targets(self) -> None:
        """UserError for a target of an unknown metric, or one that no model can meet. Of a metric by `_target_` this is
        known once it is imported."""
        own = [metric_name(metric) for metric in self.metrics if not isinstance(metric, str)]
        for key, target in self.targets.items():
            if target.metric in own:
                continue
            if target.metric not in METRICS:
                raise UserError(
                    f"{key}.metric {target.metric!r} is unknown: {choice(target.metric, [*METRICS, *own])} "
                    "(workload.metrics may list others by _target_)"
                )
            check_possible(key, target, *range_of(target.metric, self.loss))


@dataclass(frozen=True, kw_only=True)
class Workload(WorkloadConfig):
    """What is trained and when it counts as done; everything but TBS, LR rule and seed."""

    dataset: Spec
    model: Spec
    optimizer_name: str
    optimizer: Spec  # without lr
    schedule: Spec  # durations as written in conf
    train_examples: int
    parameter_groups: Spec = field(default_factory=dict)
    co_scaling: CoScaling = field(default_factory=CoScaling)
    placement: Placement = field(default_factory=Placement)

    @property
    def budget_examples(self) -> int:
        """The budget, rounded up to a whole number of evaluation intervals so that it ends with an evaluation."""
        every = self.evaluate_every_examples
        examples = to_steps(self.budget, total_batch_size=1, train_examples=self.train_examples)
        if examples < 1:
            raise UserError(f"workload.budget must be > 0, not {self.budget.amount} {self.budget.unit}")
        return -(-examples // every) * every

    def check_batch_sizes(self, total_batch_sizes: Sequence[int]) -> None:
        """Raises UserError unless every TBS fits the training set and the evaluation grid (P5 and P6)."""
        for tbs in total_batch_sizes:
            if tbs < 1:
                raise UserError(f"total batch sizes must be integers >= 1, not {tbs}")
            if tbs > self.train_examples:
                raise UserError(
                    f"total batch size {tbs} exceeds the training set of {self.train_examples} examples: "
                    f"use at most {self.train_examples}"
                )
        every = self.evaluate_every_examples
        off_grid = [tbs for tbs in total_batch_sizes if every % tbs]
        if off_grid and self.exact_grid:
            common = lcm(*total_batch_sizes)
            raise UserError(
                f"evaluate_every_examples={every} is not a multiple of total batch size "
                f"{', '.join(map(str, off_grid))}: the nearest valid values are {nearest(every, common)} "
                "(or workload.exact_grid=false to evaluate at the first update beyond each grid point)"
            )

    def check_confirmation(self, total_batch_size: int) -> None:
        """Raises UserError for a target that no trial can reach, because the budget has too few evaluations."""
        every, budget = self.evaluate_every_examples, self.budget_examples
        count = min(budget // every, -(-budget // total_batch_size))
        for name, target in (("target", self.target), ("read_beside", self.read_beside)):
            if target is not None and target.confirm > count:
                raise UserError(
                    f"workload.{name}.confirm={target.confirm} can never happen: at TBS {total_batch_size} the budget "
                    f"of {budget} examples has {count} evaluation{'s' * (count != 1)}: lower it, raise "
                    "workload.budget, or lower workload.evaluate_every_examples"
                )

    def batch_plan(self, total_batch_size: int) -> BatchPlan:
        """How the placement cuts a global batch; ghost groups stay whole, other spans follow the micro-batch."""
        return self.placement.plan(total_batch_size, self.batch_norm.group_examples)

    def arm(
        self,
        rule: Rule | str,
        total_batch_size: int,
        *,
        base_lr: float | None = None,
        variant: Mapping[str, Any] | None = None,
    ) -> Arm:
        """Resolve one arm whose LR follows from the base point by `rule`; a string names one as in `lr_scaling.rules`.

        `base_lr` replaces the workload's for this arm (sensitivity checks); `variant` labels whatever else an
        experiment varied.
        """
        self.check_batch_sizes([total_batch_size])
        rule = rule_named(rule) if isinstance(rule, str) else rule
        base = self.base_lr if base_lr is None else base_lr
        peak_lr = base * rule.factor(total_batch_size / self.base_batch_size)
        return self._arm(rule.name, total_batch_size, base, peak_lr, variant, adaptive=rule.adaptive)

    def arm_at_lr(
        self, lr: float, total_batch_size: int, *, label: str, variant: Mapping[str, Any] | None = None
    ) -> Arm:
        """Resolve one arm at a peak LR not given by a rule; `label` is its origin, like "grid" or "tuned"."""
        self.check_batch_sizes([total_batch_size])
        return self._arm(label, total_batch_size, self.base_lr, lr, variant)

    def _arm(
        self,
        label: str,
        total_batch_size: int,
        base: float,
        peak_lr: float,
        variant: Mapping[str, Any] | None,
        *,
        adaptive: bool = False,
    ) -> Arm:
        """Everything but the LR: durations into updates, what is co-scaled, spans; `adaptive` for AdaScale's gain."""
        if not (isfinite(peak_lr) and peak_lr > 0):
            raise UserError(f"the peak LR of {label} at TBS {total_batch_size} must be > 0, not {peak_lr}")
        ratio, choices = total_batch_size / self.base_batch_size, self.co_scaling
        if adaptive:
            check_adascale(self.optimizer["_target_"], ratio)
        optimizer = co_scale(self.optimizer, base_lr=base, peak_lr=peak_lr, batch_ratio=ratio, choices=choices)
        batch = self.batch_plan(total_batch_size)
        spans = {"per_device": batch.per_device_batch_size, "sync": batch.per_device_batch_size * batch.world_size}
        if self.noise_scale.in_training and batch.per_device_batch_size == total_batch_size:
            raise UserError(
                f"noise_scale.in_training compares micro-batches with their batch, but TBS {total_batch_size} is one "
                f"micro-batch: use cluster.per_device_batch_size={total_batch_size // 2} or less, or a larger TBS"
            )
        coupled = couples_examples(self.loss)
        if coupled and batch.per_device_batch_size != self.placement.max_per_device:
            raise UserError(
                f"loss {loss_name(self.loss)} couples the examples of a micro-batch, which must be the same for every "
                f"TBS, but {batch}: set cluster.per_device_batch_size, and let every TBS be a multiple of it times the "
                "workers"
            )
        span_examples = spans.get(self.batch_norm.span, self.batch_norm.span_examples)
        batch_norm = replace(self.batch_norm, span_examples=span_examples)
        settings = Settings(
            dataset=self.dataset,
            model=self.model,
            loss=self.loss,
            metrics=self.measured,
            optimizer=optimizer,
            # AdaScale's schedule is that of the base batch size; the gains set the pace through it.
            schedule=self.resolved_schedule(self.base_batch_size if adaptive else total_batch_size),
            total_batch_size=total_batch_size,
            train_examples=self.train_examples,
            target=self.target,
            budget_examples=self.budget_examples,
            evaluate_every_examples=self.evaluate_every_examples,
            batch_norm=batch_norm,
            averaging=co_scale_averaging(self.averaging, batch_ratio=ratio, choices=self.co_scaling),
            parameter_groups=self.parameter_groups,
            clip_norm=self.clip_norm,
            noise_scale=self.noise_scale,
            stop_at_target=self.stop_at_target,
            adascale_ratio=int(ratio) if adaptive and ratio > 1 else 0,
            coupled_examples=batch.per_device_batch_size if coupled else 0,
        )
        return Arm(self.name, self.optimizer_name, label, self.base_batch_size, base, settings, dict(variant or {}))

    def resolved_schedule(self, total_batch_size: int) -> Spec:
        """The schedule with its durations, in lists too, as updates; a fraction refers to the schedule's horizon, which
        is the budget where it is null or the schedule has none."""
        sizes = {"total_batch_size": total_batch_size, "train_examples": self.train_examples}
        horizon_steps = -(-self.budget_examples // total_batch_size)

        def resolve(value: Any) -> Any:
            if is_duration(value):
                return to_steps(Duration.parse(value), **sizes, horizon_steps=horizon_steps)
            return [resolve(item) for item in value] if isinstance(value, list | tuple) else value

        ratio = total_batch_size / self.base_batch_size
        schedule = dict(co_scale_warmup(self.schedule, batch_ratio=ratio, choices=self.co_scaling))
        for name in ("horizon", "warmup"):  # a bare number would last k times as many examples at k times the TBS
            if schedule.get(name) and not is_duration(schedule[name]):
                raise UserError(f"schedule.{name} needs a unit, like {{epochs: 5}}, not {schedule[name]!r}")
        if "horizon" in schedule:
            horizon = {"fraction": 1} if schedule["horizon"] is None else schedule["horizon"]
            horizon_steps = schedule["horizon"] = resolve(horizon)
        return {key: resolve(value) for key, value in schedule.items()}
