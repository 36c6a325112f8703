"""The user's own columns of the table of arms: tried before any trial runs, and filled in once arms are measured."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from harness.analyse.arm_estimates import arm_estimates
from harness.analyse.arms import ArmFinding, Place, further_metrics
from harness.analyse.step_times import StepTiming
from harness.plan.arm_columns import ArmColumn
from harness.plan.errors import UserError
from harness.plan.outcome import Outcome
from harness.plan.trial import Arm
from harness.statistics.estimates import Observation, count_outcomes, pooled_log_spread

SEEDS = (0, 1, 2)  # of a made-up arm


def with_own_columns(rows: Sequence[ArmFinding], columns: Sequence[ArmColumn]) -> tuple[list[ArmFinding], list[str]]:
    """The rows with their `extra` values, and a caveat for every column that fails on some of them."""
    values = [[_value(column, row) for column in columns] for row in rows]
    filled = [
        replace(
            row,
            extra={c.name: None if isinstance(v, UserError) else v for c, v in zip(columns, found, strict=True)},
        )
        for row, found in zip(rows, values, strict=True)
    ]
    lines = []
    for i, column in enumerate(columns):
        failed = [(row, found[i]) for row, found in zip(rows, values, strict=True) if isinstance(found[i], UserError)]
        if failed:
            row, error = failed[0]
            lines.append(
                f"column {column.path} is empty for {len(failed)} of {len(rows)} arms: "
                f"{row.label} TBS {row.total_batch_size}: {error}"
            )
    return filled, lines


def _value(column: ArmColumn, row: ArmFinding) -> float | int | str | UserError | None:
    try:
        return column.value(row)
    except UserError as error:
        return error


def try_columns(columns: Sequence[ArmColumn], arms: Iterable[Arm]) -> None:
    """Call every column on made-up results of the planned arms; UserError for the first that fails."""
    for arm in arms:
        found = {
            "an arm": made_up(arm, reached=True),
            "an arm that missed its target and has no times or metrics": made_up(arm, reached=False),
        }
        for words, row in found.items():
            for column in columns:
                try:
                    column.value(row)
                except UserError as error:
                    raise UserError(f"arm_columns: {column.path} fails on {words}: {error}") from error


def made_up(arm: Arm, reached: bool) -> ArmFinding:
    """A row for a planned arm: every field filled, or every trial a miss and whatever can be unknown unknown."""
    budget, train = arm.settings.budget_examples, arm.settings.train_examples
    middle = budget / 2
    ended = Outcome.REACHED if reached else Outcome.CENSORED
    observation = Observation(ended, middle if reached else math.inf, middle / 2 if reached else budget)
    observations = [observation] * len(SEEDS)
    place = Place(middle, middle / 2, budget, "range 75 %", 0.75, middle, middle)
    missed = Place(math.inf, budget, math.inf, "range 75 %", 0.75, budget, math.inf)
    return ArmFinding(
        workload=arm.workload,
        optimizer=arm.optimizer,
        scaling_rule=arm.scaling_rule,
        total_batch_size=arm.total_batch_size,
        variant=dict(arm.variant),
        batch_ratio=arm.batch_ratio,
        base_lr=arm.base_lr,
        peak_lr=arm.settings.peak_lr,
        train_examples=train,
        n=len(SEEDS),
        outcomes=count_outcomes(observations),
        seeds=list(SEEDS),
        epochs_by_seed=[middle / train if reached else None for _ in SEEDS],
        place=place if reached else missed,
        beside=place if reached else None,
        estimates=arm_estimates(observations, pooled_log_spread([observations]), budget),
        step_s=0.01 if reached else None,
        packed_seconds=1.0 if reached else None,
        final_metric=0.9 if reached else None,
        test_metric=0.9 if reached else None,
        topology="cpu-w1" if reached else "",
        metrics=dict.fromkeys(further_metrics(arm.settings, arm.settings.target), (0.9, 0.9)),
        timing=StepTiming(0.01, 0.02, 90, 0.01, 0.01, 0.011, None, "", "", 0.0, 0.0, 2, True) if reached else None,
    )
