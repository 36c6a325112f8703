"""Which LR of a grid at the base batch size reaches the target with the fewest epochs."""

import math
from collections.abc import Sequence

from harness.analyse.arms import ArmFinding, arm_findings
from harness.analyse.conclude import findings
from harness.analyse.equals import equals_of_best
from harness.analyse.findings import Findings
from harness.analyse.results import Records, TrialResult
from harness.plan.design import Design
from harness.plan.trial import Arm
from harness.statistics import words
from harness.statistics.estimates import Interval


def conclude(design: Design, arms: Sequence[Arm], records: Records) -> Findings:
    """The LR with the smallest median; ties go to the second target's median."""
    measured = arm_findings(design, arms, records)
    verdict = best_lr_lines(*measured, design.workload.evaluate_every_examples)
    question = "Which base LR reaches the target fastest at the base batch size?"
    return findings(question, design, arms, records, measured, verdict=verdict)


def _interval(row: ArmFinding) -> str:
    """That of the median, in epochs, or why there is none."""
    low, high = row.place.low / row.train_examples, row.place.high / row.train_examples
    return words.interval(Interval(low, high, row.place.coverage, row.place.interval), words.number)


def best_lr_lines(rows: Sequence[ArmFinding], results: Sequence[Sequence[TrialResult]], resolution: int) -> list[str]:
    reached = [row for row in rows if row.n and math.isfinite(row.place.examples)]
    if not reached:
        return ["No LR of the grid reached the target in more than half of its seeds."]

    def key(row: ArmFinding) -> tuple[float, float]:
        return row.place.examples, row.beside.examples if row.beside else math.inf

    best = min(reached, key=key)
    lines = [
        f"LR {best.peak_lr:g} has the smallest median at TBS {best.total_batch_size}: "
        f"{words.count(f'{best.epochs:.3g}', 'epoch')} "
        f"(median of {words.count(best.n, 'seed')}; {_interval(best)})."
    ]
    lrs = sorted(row.peak_lr for row in rows)
    near = sorted(row.peak_lr for row in equals_of_best(best, rows, results, resolution))
    if len(near) > 1:
        others = ", ".join(f"{lr:g}" for lr in near if lr != best.peak_lr)
        lines.append(f"Not distinguished from it (95 %): {others}.")
    if {lrs[0], lrs[-1]} & set(near):
        lines.append(f"The basin reaches the edge of the grid {lrs[0]:g}–{lrs[-1]:g}: extend the grid to see its end.")
    return lines
