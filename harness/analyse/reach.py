"""The share of seeds that has reached by each place, arm by arm: what a budget buys before the median says it."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.analyse.arms import ArmFinding
from harness.analyse.results import TrialResult
from harness.statistics.estimates import scaled
from harness.statistics.survival import ReachCurve, reach_curve


@dataclass(frozen=True)
class ReachLine:
    """The curve of one arm, in epochs; `end`: the last place at which anything of its seeds is known."""

    label: str
    total_batch_size: int
    curve: ReachCurve
    end: float


def reach_lines(rows: Sequence[ArmFinding], results: Sequence[Sequence[TrialResult]]) -> list[ReachLine]:
    """Kaplan-Meier curves of the arms at the largest TBS; `results[i]` are the trials of `rows[i]`."""
    measured = [(row, found) for row, found in zip(rows, results, strict=True) if row.n]
    largest = max((row.total_batch_size for row, _ in measured), default=0)
    lines = []
    for row, found in measured:
        if row.total_batch_size == largest:
            data = [scaled(result.observation(), 1 / row.train_examples) for result in found]
            end = max(result.examples for result in found) / row.train_examples
            lines.append(ReachLine(row.label, largest, reach_curve(data), end))
    return lines
