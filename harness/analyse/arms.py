"""The arms of a study as rows: where each reaches the target, how its trials ended, what a step takes."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.analyse.arm_estimates import ArmEstimates, arm_estimates
from harness.analyse.crossing import locate
from harness.analyse.results import Records, TrialResult, median
from harness.analyse.step_times import StepTiming, step_timings
from harness.plan.arm_columns import ColumnValue
from harness.plan.design import Design
from harness.plan.metrics import measured_names
from harness.plan.settings import Settings
from harness.plan.target import Target
from harness.plan.trial import Arm
from harness.statistics.estimates import (
    Observation,
    OutcomeCounts,
    PooledSpread,
    count_outcomes,
    median_estimate,
    median_of,
    pooled_log_spread,
)


@dataclass(frozen=True)
class Place:
    """Where an arm reaches a target: the median over seeds in examples, misses at infinity, with its interval."""

    examples: float
    low: float
    high: float
    interval: str  # what (low, high) is, e.g. "order statistics 97 %"
    coverage: float  # of (low, high); 1 where it excludes nothing
    at_least: float  # a lower bound of the median where stopped trials hide it
    touch_examples: float  # median of the first evaluation that met the target, confirmed or not


@dataclass(frozen=True)
class ArmFinding:
    """One row of the main table."""

    workload: str
    optimizer: str
    scaling_rule: str
    total_batch_size: int
    variant: dict[str, Any]
    batch_ratio: float
    base_lr: float
    peak_lr: float
    train_examples: int
    n: int
    outcomes: OutcomeCounts
    seeds: list[int]
    epochs_by_seed: list[float | None]  # of the crossing; None for a miss
    place: Place
    beside: Place | None  # the workload's second target, read from the same evaluations
    estimates: ArmEstimates
    step_s: float | None  # seconds per update, alone on the machine; None also where `timing` is excluded
    packed_seconds: float | None  # median of the trials' own clocks, misses at infinity; the machine may be shared
    final_metric: float | None
    test_metric: float | None
    topology: str
    timing: StepTiming | None = None  # what the timing pass measured
    extra: dict[str, ColumnValue] = field(default_factory=dict)  # the user's own columns
    # Of each further metric that the workload lists: medians of the last evaluations and of the test split.
    metrics: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        extra = "".join(f" {key}={_written(value)}" for key, value in self.variant.items())
        return f"{self.scaling_rule}{extra}"

    @property
    def epochs(self) -> float:
        return self.place.examples / self.train_examples

    @property
    def steps(self) -> float:
        return self.place.examples / self.total_batch_size

    @property
    def seconds(self) -> float | None:
        """Time to target = steps x seconds per step, the step alone on the machine; None before the timing pass."""
        return None if self.step_s is None else self.steps * self.step_s

    @property
    def step_sd(self) -> float | None:
        """Standard deviation of the log of `step_s`; None where that is, or where only its median was written."""
        return None if self.timing is None or self.step_s is None else self.timing.relative_sd

    @property
    def step_n(self) -> int | None:
        """Updates that `step_s` was measured over."""
        return None if self.timing is None or self.step_s is None else self.timing.steps


def _written(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def arm_findings(
    design: Design, arms: Sequence[Arm], records: Records
) -> tuple[list[ArmFinding], list[list[TrialResult]]]:
    """The main table, arms in plan order, and the trials of each row."""
    results = [records.of_arm(arm, design.seeds) for arm in arms]
    spread = pooled_log_spread([[result.observation() for result in found] for found in _distinct(arms, results)])
    beside = design.workload.read_beside
    read = [_measuring(found, beside) for found in results]
    beside_spread = None
    if beside is not None:
        beside_spread = pooled_log_spread([[r.observation(beside) for r in found] for found in _distinct(arms, read)])
    timings = step_timings(records.folder.timings(), list(zip(arms, results, strict=True)))
    rows = []
    for arm, found, timing, also in zip(arms, results, timings, read, strict=True):
        observations = [result.observation() for result in found]
        topology = found[0].topology if found else None
        rows.append(
            ArmFinding(
                workload=arm.workload,
                optimizer=arm.optimizer,
                scaling_rule=arm.scaling_rule,
                total_batch_size=arm.total_batch_size,
                variant=dict(arm.variant),
                batch_ratio=arm.batch_ratio,
                base_lr=arm.base_lr,
                peak_lr=arm.settings.peak_lr,
                train_examples=arm.settings.train_examples,
                n=count_outcomes(observations).n,
                outcomes=count_outcomes(observations),
                seeds=[result.trial.seed for result in found],
                epochs_by_seed=[_epochs(result) for result in found],
                place=_place(found, records.target or arm.settings.target, observations, spread),
                beside=_place(also, beside, [r.observation(beside) for r in also], beside_spread)
                if beside and (also or not found)
                else None,
                estimates=arm_estimates(observations, spread, records.budget_examples or arm.settings.budget_examples),
                step_s=timing.seconds if timing and not timing.excluded else None,
                packed_seconds=_packed_seconds(found),
                final_metric=median(result.final_metric() for result in found if result.outcome.is_data),
                test_metric=median(result.test_metric() for result in found if result.outcome.is_data),
                topology=topology.key if topology else "",
                timing=timing,
                metrics=_further_metrics(arm, found, records.target or arm.settings.target),
            )
        )
    return rows, results


def further_metrics(settings: Settings, target: Target) -> list[str]:
    """Metrics of a trial next to the target's, where its workload lists any or a target needs more than the loss's."""
    names = measured_names(settings.loss, settings.metrics) if settings.metrics else ()
    return [name for name in names if name != target.metric]


def _further_metrics(
    arm: Arm, found: Sequence[TrialResult], target: Target
) -> dict[str, tuple[float | None, float | None]]:
    data = [result for result in found if result.outcome.is_data]
    return {
        name: (median(r.final_metric(name) for r in data), median(r.test_metric(name) for r in data))
        for name in further_metrics(arm.settings, target)
    }


def _measuring(found: Sequence[TrialResult], beside: Target | None) -> list[TrialResult]:
    """The trials that have the metric of a second target: all, unless it was chosen after they had run."""
    return [result for result in found if beside is not None and result.measures(beside.metric)]


def distinct_trials(results: Iterable[Iterable[TrialResult]]) -> list[TrialResult]:
    """Every trial once, however many arms share it."""
    return list({result.trial.trial_id: result for found in results for result in found}.values())


def _distinct(arms: Sequence[Arm], results: Sequence[list[TrialResult]]) -> list[list[TrialResult]]:
    """Results of arms that differ in settings: a run shared by several rules counts once."""
    by_settings = {str(arm.settings.to_json()): found for arm, found in zip(arms, results, strict=True) if found}
    return list(by_settings.values())


def _epochs(result: TrialResult) -> float | None:
    high = result.crossing.high
    return None if high is None or not result.outcome.is_data else high / result.settings.train_examples


def _packed_seconds(found: Sequence[TrialResult]) -> float | None:
    """The median over seeds, a miss as later than every crossing; None without data, or of several devices (P34)."""
    if len({label for result in found for label in result.hardware}) > 1:
        return None
    clocks = [result.packed_seconds() for result in found if result.outcome.is_data]
    return median_of(sorted(math.inf if seconds is None else seconds for seconds in clocks)) if clocks else None


def _place(
    found: Sequence[TrialResult], target: Target, observations: Sequence[Observation], spread: PooledSpread | None
) -> Place:
    estimate = median_estimate(observations, spread)
    touches = [_touch(result, target) for result in found]
    return Place(
        estimate.value,
        estimate.interval.low,
        estimate.interval.high,
        estimate.interval.label,
        estimate.interval.coverage,
        estimate.at_least,
        median_of(sorted(touches)),
    )


def _touch(result: TrialResult, target: Target) -> float:
    first = locate(result.evaluations, target, result.settings.averaging.decide_on).first_touch
    return math.inf if first is None else float(first)
