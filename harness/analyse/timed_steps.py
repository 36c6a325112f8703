"""What was timed of a study's updates: rows for the step-time model, all of one kind of hardware (P34)."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.analyse.results import TrialResult
from harness.analyse.step_times import step_timings
from harness.plan.errors import UserError
from harness.plan.timing import conditions_of, is_timing_of
from harness.plan.trial import Arm, Topology
from harness.record.study import StudyFolder
from harness.statistics.step_model import StepRow
from harness.statistics.step_time import relative_sds

UNKNOWN_DEVICE = "an unnamed device"


@dataclass(frozen=True)
class TimedSteps:
    """Timings that may be compared, and what else a run spends on that hardware."""

    rows: tuple[StepRow, ...]
    device: str
    conditions: str
    elsewhere: bool = False  # timed on other hardware than the trials of the study ran on
    evaluation_s: float | None = None  # one pass over the validation split
    evaluation_devices: int = 1
    evaluation_is_packed: bool = False  # by the trials' own clocks, which may have shared the machine
    start_up_s: float | None = None
    checkpoint_s: float | None = None
    gradient_bytes: float | None = None  # payload of an all-reduce
    notes: tuple[str, ...] = field(default=())


def own_steps(folder: StudyFolder, measured: Sequence[tuple[Arm, Sequence[TrialResult]]]) -> TimedSteps | None:
    """The study's own timing pass; None where no arm was timed."""
    timings = step_timings(folder.timings(), measured)
    rows: dict[str, StepRow] = {}
    kept = []
    for (_, results), timing in zip(measured, timings, strict=True):
        if timing is not None and timing.excluded is None:
            batch = results[0].topology.batch
            rows[results[0].topology.key] = StepRow(
                batch.world_size,
                batch.per_device_batch_size,
                batch.gradient_accumulation_steps,
                timing.seconds,
                timing.relative_sd or 0.0,
            )
            kept.append(timing)
    if not rows:
        return None
    packed = _packed_evaluation(results for _, results in measured)
    return TimedSteps(
        tuple(rows.values()),
        kept[0].device or UNKNOWN_DEVICE,
        kept[0].conditions,
        evaluation_s=packed[0] if packed else None,
        evaluation_devices=packed[1] if packed else 1,
        evaluation_is_packed=packed is not None,
    )


def other_steps(folder: StudyFolder, arms: Iterable[Arm]) -> TimedSteps:
    """The timings of another study, e.g. of `+experiment=step_time`; UserError unless they are of the same work, and on
    one kind of hardware."""
    arms, found = list(arms), folder.timings()
    if not found:
        raise UserError(
            f"{folder.path} has no timings: give a study of +experiment=step_time, or one with a timing pass"
        )
    alike: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for row in found:
        if isinstance(row.get("topology"), str):
            topology = Topology.from_key(row["topology"])
            if any(is_timing_of(row, arm, topology) for arm in arms):
                alike[conditions_of(row)][topology.key] = row
    if not alike:
        raise UserError(
            f"{folder.path} timed another workload: its model, data or optimizer is not that of the study to advise on"
        )
    if len(alike) > 1:
        raise UserError(
            f"{folder.path} was timed under {len(alike)} conditions ({'; '.join(sorted(alike))}): seconds of several "
            "are never combined: give a study with one"
        )
    ((conditions, by_key),) = alike.items()
    rows = [*by_key.values()]
    sds = relative_sds([row.get("rounds_s", ()) for row in rows])
    steps = []
    for row, sd in zip(rows, sds, strict=True):
        batch = Topology.from_key(row["topology"]).batch
        steps.append(
            StepRow(
                batch.world_size,
                batch.per_device_batch_size,
                batch.gradient_accumulation_steps,
                row["median_s"],
                sd or 0.0,
            )
        )
    evaluated = [row for row in rows if _number(row.get("evaluation_s"))]
    widest = max(evaluated, key=lambda row: Topology.from_key(row["topology"]).batch.world_size, default=None)
    return TimedSteps(
        tuple(steps),
        rows[0].get("device") or UNKNOWN_DEVICE,
        conditions,
        evaluation_s=None if widest is None else widest["evaluation_s"],
        evaluation_devices=1 if widest is None else Topology.from_key(widest["topology"]).batch.world_size,
        start_up_s=_largest(rows, "start_up_s"),
        checkpoint_s=_largest(rows, "checkpoint_s"),
        gradient_bytes=_largest(rows, "gradient_bytes"),
    )


def combined(own: TimedSteps | None, other: TimedSteps | None) -> TimedSteps | None:
    """Both together where they were timed alike; else the other's alone: it is where the user wants to train (P34)."""
    if own is None or other is None:
        return other or own
    if own.conditions != other.conditions:
        note = (
            f"seconds are those of {other.device} alone ({other.conditions}); the study's own timing pass was under "
            f"{own.conditions}"
        )
        return TimedSteps(**{**vars(other), "elsewhere": True, "notes": (note,)})
    known = {(row.devices, row.micro_batch, row.accumulation) for row in other.rows}
    added = [row for row in own.rows if (row.devices, row.micro_batch, row.accumulation) not in known]
    if other.evaluation_s is not None:
        return TimedSteps(**{**vars(other), "rows": (*other.rows, *added)})
    evaluation = {name: getattr(own, name) for name in ("evaluation_s", "evaluation_devices", "evaluation_is_packed")}
    return TimedSteps(**{**vars(other), **evaluation, "rows": (*other.rows, *added)})


def _packed_evaluation(trials: Iterable[Sequence[TrialResult]]) -> tuple[float, int] | None:
    """Seconds of a pass by the trials' own clocks, at the number of workers that most trials had."""
    by_workers: dict[int, list[float]] = defaultdict(list)
    for results in trials:
        for result in results:
            if result.evaluations:
                spent = result.evaluations[-1]["clock"].get("evaluate_s")
                if spent:
                    by_workers[result.topology.batch.world_size].append(spent / len(result.evaluations))
    if not by_workers:
        return None
    workers = max(by_workers, key=lambda n: len(by_workers[n]))
    return statistics.median(by_workers[workers]), workers


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and value > 0


def _largest(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    return max((float(row[name]) for row in rows if _number(row.get(name))), default=None)
