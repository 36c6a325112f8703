"""Time and cost on n devices: the cost curve of a study joined with the seconds of an update, in joint draws (P32).

On every number of devices asked for, each arm that may be chosen is cut into micro-batches in the way whose update is
fastest; the recommendation is the smallest TBS whose expected regret in hours is within 3 points of the least.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.analyse.arms import ArmFinding
from harness.analyse.decision import ArmKey, arm_keys, best_arms, in_seconds, shared_base
from harness.analyse.results import TrialResult
from harness.analyse.timed_steps import TimedSteps
from harness.plan.batch import divisors, nearest
from harness.plan.design import Design
from harness.plan.errors import UserError
from harness.plan.loss_choice import couples_examples, loss_name
from harness.plan.trial import Arm
from harness.statistics.estimates import CONFIDENCE, Interval
from harness.statistics.links import Hardware
from harness.statistics.recommendation import (
    Candidate,
    Competition,
    StepTime,
    choose,
    competition,
    p_best_and_regret,
)
from harness.statistics.run_time import Overheads, evaluation_exponents, evaluation_seconds, run_seconds
from harness.statistics.scaling_out import PAYS, StopsPaying, frontier, knee, stops_paying
from harness.statistics.step_model import Kind, StepModel, StepPrediction, fit_step_model

Array = np.ndarray[Any, np.dtype[np.float64]]
HOUR_S = 3600.0


@dataclass(frozen=True)
class Asked:
    """What the user wants to know."""

    devices: tuple[int, ...]
    per_node: int = 8
    price: float | None = None  # of one device for an hour
    deadline_s: float | None = None
    max_cost: float | None = None
    pays: float = PAYS
    mtbf_hours: float | None = None  # of one device; None: no failures are counted
    hardware: Hardware | None = None


@dataclass(frozen=True)
class Point:
    """What to run on one number of devices, and what it takes."""

    devices: int
    key: ArmKey
    peak_lr: float
    micro_batch: int
    accumulation: int
    kind: Kind  # what the seconds rest on; epochs are those of a swept TBS
    epochs: float
    epochs_interval: Interval
    updates: float
    step_s: float
    step_interval: Interval
    hours: float
    hours_interval: Interval
    evaluation_share: float  # of the time
    p_best: float
    expected_regret: float
    not_distinguished: tuple[ArmKey, ...]  # arms that tests do not tell from the best one (P27)
    draws_hours: Array = field(repr=False, compare=False)
    left_out: tuple[tuple[int, int], ...] = ()  # TBS and micro-batch of which there is only a bracket here
    sd_of_epochs: float = 0.0  # of the log: what more seeds would reduce
    sd_of_step: float = 0.0  # and more timings

    @property
    def rule(self) -> str:
        return self.key[0]

    @property
    def total_batch_size(self) -> int:
        return self.key[1]

    @property
    def device_hours(self) -> float:
        return self.devices * self.hours

    def within(self, hours: float) -> float:
        """Share of the draws that need no more."""
        return float((self.draws_hours <= hours).mean())


@dataclass(frozen=True)
class Unmeasured:
    """A number of devices on which every micro-batch is below half of the smallest one timed: only a bracket."""

    devices: int
    hours_low: float
    hours_high: float
    measure: tuple[int, ...]  # micro-batches to time; one replica is enough


@dataclass(frozen=True)
class Advice:
    """Time and cost on every number of devices asked for."""

    asked: Asked
    points: tuple[Point, ...]  # ascending in devices
    unmeasured: tuple[Unmeasured, ...]
    front: tuple[int, ...]  # indices of points that no other beats in both hours and device-hours
    knee: int  # index of the least hours x device-hours
    stops: StopsPaying
    chosen: int  # index of the point for the deadline or the budget, else the knee
    why: str  # it was chosen
    set_aside: tuple[tuple[ArmKey, str], ...]
    timed: TimedSteps
    pinned: tuple[str, ...]  # parameters of the step-time model that no timing determines
    protocol: str
    target: str
    overheads: Overheads

    @property
    def fastest(self) -> Point:
        return min(self.points, key=lambda point: point.hours)

    @property
    def cheapest(self) -> Point:
        return min(self.points, key=lambda point: point.device_hours)

    def cost(self, device_hours: float) -> float | None:
        return None if self.asked.price is None else device_hours * self.asked.price


@dataclass(frozen=True)
class Study:
    """The arms of a study with their trials, as advice reads them."""

    design: Design
    arms: Sequence[Arm]
    rows: Sequence[ArmFinding]
    results: Sequence[Sequence[TrialResult]]
    protocol: str
    target: str


def advise(study: Study, timed: TimedSteps, asked: Asked) -> Advice:
    """UserError where nothing can be advised: no arm reached, one TBS alone, a batch that no number of devices splits,
    a deadline or a budget that nothing meets."""
    observed, trials = _observed(study)
    field_ = competition(observed, base=shared_base(study.design, study.arms), identity=lambda key: trials[key])
    if not any(field_.has_reached):
        raise UserError(
            "no arm reached the target: nothing can be advised; give an easier --target, or a larger budget"
        )
    if len({size for (_, size), reached in zip(field_.arms, field_.has_reached, strict=True) if reached}) < 2:
        raise UserError("advice compares total batch sizes, but the study has only one that reached the target")
    all_reduce = _all_reduce(asked.hardware, timed)
    model = fit_step_model(timed.rows, asked.per_node, all_reduce, draws=len(field_.log_examples))
    engine = _Engine(study, field_, observed, trials, model, _overheads(timed, asked))
    points: list[Point] = []
    unmeasured: list[Unmeasured] = []
    for devices in asked.devices:
        found = engine.on(devices)
        (points if isinstance(found, Point) else unmeasured).append(found)  # pyright: ignore[reportArgumentType]
    if not points:
        first = unmeasured[0]
        raise UserError(
            f"no micro-batch on {devices_text(asked.devices)} is timed, nor half as large as one that is: measure "
            f"micro-batch {', '.join(map(str, first.measure))} (one replica is enough) with +experiment=step_time"
        )
    hours = [point.hours for point in points]
    device_hours = [point.device_hours for point in points]
    best = knee(hours, device_hours)
    assert best is not None
    chosen, why = _chosen(points, asked, best)
    stops = stops_paying(
        [point.devices for point in points], np.stack([point.draws_hours for point in points], axis=1), asked.pays
    )
    return Advice(
        asked,
        tuple(points),
        tuple(unmeasured),
        tuple(frontier(hours, device_hours)),
        best,
        stops,
        chosen,
        why,
        tuple(field_.set_aside.items()),
        timed,
        model.pinned,
        study.protocol,
        study.target,
        engine.overheads,
    )


def devices_text(devices: Sequence[int]) -> str:
    listed = ", ".join(map(str, devices))
    return f"{listed} device{'s' * (tuple(devices) != (1,))}"


def _observed(study: Study) -> tuple[dict[ArmKey, Any], dict[ArmKey, tuple[str, ...]]]:
    observed, trials = {}, {}
    for key, row, found in zip(arm_keys(study.rows), study.rows, study.results, strict=True):
        if found and row.n:
            observed[key] = [result.observation() for result in found]
            trials[key] = tuple(result.trial.trial_id for result in found)
    return observed, trials


def _all_reduce(hardware: Hardware | None, timed: TimedSteps) -> Callable[[int], float] | None:
    if hardware is None:
        return None
    payload = timed.gradient_bytes
    if payload is None:
        raise UserError(
            "--hardware needs the size of the gradient, which only a study of +experiment=step_time knows: give one as "
            "STEP_TIME_STUDY"
        )
    return lambda devices: hardware.all_reduce_s(devices, payload)


def _overheads(timed: TimedSteps, asked: Asked) -> Overheads:
    return Overheads(
        evaluation_s=timed.evaluation_s or 0.0,
        evaluation_devices=timed.evaluation_devices,
        start_up_s=timed.start_up_s or 0.0,
        checkpoint_s=timed.checkpoint_s or 0.0,
        failures_per_device_hour=0.0 if asked.mtbf_hours is None else 1 / asked.mtbf_hours,
    )


class _Engine:
    """Everything that does not depend on the number of devices."""

    def __init__(
        self,
        study: Study,
        field_: Competition,
        observed: Mapping[ArmKey, Any],
        trials: Mapping[ArmKey, tuple[str, ...]],
        model: StepModel,
        overheads: Overheads,
    ) -> None:
        self.study, self.field, self.observed, self.trials = study, field_, observed, trials
        self.model, self.overheads = model, overheads
        self.row = dict(zip(arm_keys(study.rows), study.rows, strict=True))
        self.results = dict(zip(arm_keys(study.rows), study.results, strict=True))
        self.exponents = evaluation_exponents(len(field_.log_examples), np.random.default_rng(1))
        settings = study.arms[0].settings
        self.train_examples, self.every = settings.train_examples, settings.evaluate_every_examples
        self.span = settings.batch_norm.span
        self.coupled = couples_examples(settings.loss)
        self.group = settings.batch_norm.group_examples

    def on(self, devices: int) -> Point | Unmeasured:
        self._check(devices)
        splits = {i: self._fastest_split(devices, key[1]) for i, key in enumerate(self.field.arms)}
        if not any(split is not None and self.field.has_reached[i] for i, split in splits.items()):
            sizes = sorted({size for _, size in self.field.arms})
            quantum = devices * self.group
            raise UserError(
                f"--devices {devices} splits none of the total batch sizes {', '.join(map(str, sizes))} into whole "
                f"micro-batches{f' of groups of {self.group} examples' if self.group > 1 else ''}: for TBS {sizes[-1]} "
                f"the nearest valid values are {nearest(sizes[-1], quantum)}"
            )
        seconds = {i: self._seconds(i, split[2], devices) for i, split in splits.items() if split is not None}
        with_point = [i for i in seconds if self._split(splits, i)[2].seconds is not None]
        reached = [i for i in with_point if self.field.has_reached[i]]
        if not reached:
            return self._bracket(devices, splits)
        log_seconds = np.log(np.stack([seconds[i] for i in with_point], axis=1))
        shares, regrets = p_best_and_regret(log_seconds)
        candidates = [
            Candidate(self.field.arms[i], float(share), float(regret), 0.0, _everything(), None, None)
            for i, share, regret in zip(with_point, shares, regrets, strict=True)
            if self.field.has_reached[i]
        ]
        best = choose(candidates)
        index = self.field.arms.index(best.arm)
        return self._point(devices, index, self._split(splits, index), seconds[index], best, splits)

    def _split(self, splits: Mapping[int, Any], index: int) -> tuple[int, int, StepPrediction]:
        split = splits[index]
        assert split is not None
        return split

    def _check(self, devices: int) -> None:
        """UserError where another number of devices would train another function."""
        if self.span not in ("sync", "per_device") and not self.coupled:
            return
        ran = {found[0].topology.batch.world_size for found in self.results.values() if found}
        if devices not in ran:
            what = (
                f"batch_norm.span={self.span}"
                if not self.coupled
                else f"loss {loss_name(self.study.arms[0].settings.loss)}"
            )
            raise UserError(
                f"--devices {devices}: with {what} what is trained changes with the devices, and the study ran on "
                f"{', '.join(map(str, sorted(ran)))}: sweep on {devices} to know its epochs"
            )

    def _fastest_split(self, devices: int, total: int) -> tuple[int, int, StepPrediction] | None:
        """Micro-batch, accumulation and the update's seconds; None where the batch cannot be split."""
        share, rest = divmod(total, devices)
        if rest or share % self.group:
            return None
        fixed = self._fixed_micro_batches(devices, total)
        splits = []
        for micro in divisors(share):
            if micro % self.group or (fixed is not None and micro not in fixed):
                continue
            if micro > self.model.largest_micro_batch:
                continue  # memory is not known beyond
            splits.append((micro, share // micro, self.model.predict(devices, micro, share // micro)))
        known = [split for split in splits if split[2].seconds is not None]
        if known:
            return min(known, key=lambda split: float(np.median(split[2].draws)))
        return max(splits, key=lambda split: split[0], default=None)

    def _fixed_micro_batches(self, devices: int, total: int) -> set[int] | None:
        if self.span not in ("sync", "per_device") and not self.coupled:
            return None
        plans = (found[0].topology.batch for found in self.results.values() if found)
        return {p.per_device_batch_size for p in plans if (p.world_size, p.total_batch_size) == (devices, total)}

    def _seconds(self, index: int, step: StepPrediction, devices: int) -> Array:
        examples = np.exp(self.field.log_examples[:, index])
        updates, passes = examples / self.field.arms[index][1], examples / self.every
        return run_seconds(updates, step.draws, passes, devices, self.overheads, self.exponents)

    def _point(
        self,
        devices: int,
        index: int,
        split: tuple[int, int, StepPrediction],
        seconds: Array,
        best: Candidate,
        splits: Mapping[int, tuple[int, int, StepPrediction] | None],
    ) -> Point:
        micro, accumulation, step = split
        assert step.seconds is not None
        key, examples = self.field.arms[index], np.exp(self.field.log_examples[:, index])
        evaluations = examples / self.every * evaluation_seconds(self.overheads, devices, self.exponents)
        return Point(
            devices=devices,
            key=key,
            peak_lr=self.row[key].peak_lr,
            micro_batch=micro,
            accumulation=accumulation,
            kind=step.kind,
            epochs=float(np.median(examples)) / self.train_examples,
            epochs_interval=_interval(examples / self.train_examples),
            updates=float(np.median(examples)) / key[1],
            step_s=step.seconds,
            step_interval=Interval(step.low, step.high, CONFIDENCE, "joint draws"),
            hours=float(np.median(seconds)) / HOUR_S,
            hours_interval=_interval(seconds / HOUR_S),
            evaluation_share=float(np.median(evaluations / seconds)),
            p_best=best.p_best,
            expected_regret=best.expected_regret,
            not_distinguished=self._rivals(key, splits),
            draws_hours=seconds / HOUR_S,
            left_out=self._left_out(splits),
            sd_of_epochs=float(np.log(examples).std()),
            sd_of_step=float(np.log(step.draws).std()),
        )

    def _rivals(
        self, chosen: ArmKey, splits: Mapping[int, tuple[int, int, StepPrediction] | None]
    ) -> tuple[ArmKey, ...]:
        """The arms that tests do not tell from the best one, the chosen left out; in the order of the study."""
        steps: dict[int, StepTime] = {}
        kept = {}
        for i, split in splits.items():
            if split is not None and split[2].seconds is not None:
                key = self.field.arms[i]
                steps[key[1]] = StepTime(split[2].seconds)
                kept[key] = self.observed[key]
        if len(kept) < 2:
            return ()
        members = best_arms(in_seconds(kept, steps), self.trials).members
        return tuple(key for key in members if key != chosen)

    def _bracket(self, devices: int, splits: Mapping[int, Any]) -> Unmeasured:
        """Between the least that some arm may take, and what the arm with the least upper end takes at most."""
        lows, highs = [], []
        for index, split in splits.items():
            if split is None or not self.field.has_reached[index]:
                continue
            examples = np.exp(self.field.log_examples[:, index])
            updates, passes = examples / self.field.arms[index][1], examples / self.every
            low, high = (
                run_seconds(updates, end * np.ones_like(updates), passes, devices, self.overheads, self.exponents)
                for end in (split[2].low, split[2].high)
            )
            lows.append(float(np.quantile(low, 0.025)) / HOUR_S)
            highs.append(float(np.quantile(high, 0.975)) / HOUR_S)
        return Unmeasured(devices, min(lows), min(highs), tuple(sorted({m for _, m in self._left_out(splits)})))

    def _left_out(self, splits: Mapping[int, Any]) -> tuple[tuple[int, int], ...]:
        found = {
            (self.field.arms[index][1], split[0])
            for index, split in splits.items()
            if split is not None and split[2].seconds is None and self.field.has_reached[index]
        }
        return tuple(sorted(found))


def _chosen(points: Sequence[Point], asked: Asked, best: int) -> tuple[int, str]:
    """Index of the point that answers, and why. UserError for a deadline or a budget that no point meets."""
    fits = list(range(len(points)))
    if asked.deadline_s is not None:
        limit = asked.deadline_s / HOUR_S
        fits = [i for i in fits if points[i].hours <= limit]
        if not fits:
            fastest = min(points, key=lambda point: point.hours)
            raise UserError(
                f"--deadline of {duration(limit)} cannot be met: the fastest possible is {duration(fastest.hours)} on "
                f"{devices_text([fastest.devices])}"
            )
    if asked.max_cost is not None:
        assert asked.price is not None
        price = asked.price
        affordable = [i for i in fits if points[i].device_hours * price <= asked.max_cost]
        if not affordable:
            cheapest = min((points[i] for i in fits), key=lambda point: point.device_hours)
            within = " within the deadline" if asked.deadline_s is not None else ""
            raise UserError(
                f"--max-cost {asked.max_cost:g} cannot be met: the cheapest possible{within} costs "
                f"{cheapest.device_hours * price:.3g} on {devices_text([cheapest.devices])}"
            )
        fits = affordable
    if asked.deadline_s is not None:
        return min(fits, key=lambda i: points[i].device_hours), "the cheapest that meets the deadline"
    if asked.max_cost is not None:
        return min(fits, key=lambda i: points[i].hours), "the fastest within the budget"
    return best, "the knee: the least hours x device-hours"


def duration(hours: float) -> str:
    """`3.2 h`, `14 min`, `2.1 s`."""
    if not math.isfinite(hours):
        return "no end"
    for unit, length in (("d", 48.0), ("h", 1.0), ("min", 1 / 60)):
        if hours >= length:
            per = {"d": 24.0}.get(unit, length)
            return f"{hours / per:.3g} {unit}"
    return f"{hours * HOUR_S:.3g} s"


def _interval(values: Array) -> Interval:
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high), CONFIDENCE, "joint draws")


def _everything() -> Interval:
    return Interval(0.0, math.inf, 1.0, "not asked")
