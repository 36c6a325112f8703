"""The local critical batch size by short branches (Merrill et al. 2025, 2505.23971): how far TBS may grow, from one
state in training and over one window of examples, until the loss no longer comes down to that of smaller batches."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.analyse.arms import arm_findings
from harness.analyse.conclude import findings
from harness.analyse.findings import Findings
from harness.analyse.results import Records, TrialResult, median
from harness.analyse.sections import Plot, Section, Series, Table
from harness.plan.design import Design
from harness.plan.outcome import Outcome
from harness.plan.trial import Arm
from harness.statistics import words

SMOOTHING = 0.5  # weight of the newest evaluation


@dataclass(frozen=True)
class BranchPoint:
    """All branches from one place in training under one rule."""

    rule: str
    epochs: float  # of the trunk when they part
    base_batch_size: int
    losses: Mapping[int, Mapping[int, float]]  # seed -> TBS -> smoothed loss at the window's end; inf: diverged

    def critical(self, tolerance: float) -> dict[int, int]:
        """By seed, of those whose branches are all there: the largest TBS that recovers."""
        sizes = {tbs for losses in self.losses.values() for tbs in losses}
        whole = {seed: losses for seed, losses in self.losses.items() if losses.keys() == sizes}
        return {seed: largest_recovered(losses, tolerance) for seed, losses in whole.items()}

    @property
    def largest(self) -> int:
        return max(tbs for losses in self.losses.values() for tbs in losses)


def conclude(
    design: Design,
    trunk: Arm,
    branches: Mapping[tuple[str, int], Sequence[Arm]],
    records: Records,
    *,
    tolerance: float,
    window_examples: int,
) -> Findings:
    """The local critical batch size at every rule and place, the keys of `branches`; places in examples."""
    workload = design.workload
    points = [
        BranchPoint(
            rule, examples / workload.train_examples, workload.base_batch_size, _losses(arms, design.seeds, records)
        )
        for (rule, examples), arms in branches.items()
    ]
    section = branch_section(points, tolerance, window_examples)
    arms = [trunk, *(arm for place in branches.values() for arm in place)]
    return findings(
        "How far may the batch grow, at several places in training, before the loss suffers?",
        design,
        arms,
        records,
        arm_findings(design, arms, records),
        verdict=section.sentences,
        sections=[section],
    )


def _losses(arms: Sequence[Arm], seeds: Sequence[int], records: Records) -> dict[int, dict[int, float]]:
    """By seed and TBS."""
    losses: dict[int, dict[int, float]] = {}
    for arm in arms:
        for result in records.of_arm(arm, seeds):
            losses.setdefault(result.trial.seed, {})[arm.total_batch_size] = branch_loss(result)
    return losses


def smoothed(losses: Sequence[float], weight: float = SMOOTHING) -> float:
    """The last value of the exponential moving average that starts at the first loss; inf without any."""
    if not losses:
        return math.inf
    average = losses[0]
    for loss in losses[1:]:
        average += weight * (loss - average)
    return average


def largest_recovered(losses: Mapping[int, float], tolerance: float) -> int:
    """The largest TBS whose loss, and that of every smaller one before it, is within `tolerance` of the lowest among
    the smaller ones; the smallest TBS where no other is."""
    sizes = sorted(losses)
    found, lowest = sizes[0], losses[sizes[0]]
    for size in sizes[1:]:
        if not losses[size] <= lowest + tolerance:
            break
        found, lowest = size, min(lowest, losses[size])
    return found


def branch_loss(result: TrialResult) -> float:
    """Smoothed validation loss of the deciding weights at the end; inf for a branch that diverged."""
    if result.outcome is Outcome.DIVERGED:
        return math.inf
    weights = result.settings.averaging.decide_on
    return smoothed([row["validation"][weights]["loss"] for row in result.evaluations])


def branch_section(points: Sequence[BranchPoint], tolerance: float, window_examples: int) -> Section:
    """Critical batch size over training, and the losses it comes from."""
    rows, sentences = [], []
    for point in points:
        critical = point.critical(tolerance)
        rows += [
            (point.rule, point.epochs, seed, tbs, loss, critical.get(seed))
            for seed, losses in point.losses.items()
            for tbs, loss in sorted(losses.items())
        ]
        if critical:
            sentences.append(_sentence(point, critical))
    known = [(point, list(point.critical(tolerance).values())) for point in points if point.critical(tolerance)]
    series, excess = [], []
    for rule in dict.fromkeys(point.rule for point in points):
        mine = [(point, found) for point, found in known if point.rule == rule]
        if mine:
            middle = [median(found) or math.nan for _, found in mine]
            ends = [min(found) for _, found in mine], [max(found) for _, found in mine]
            series.append(Series(rule, [point.epochs for point, _ in mine], middle, *ends, kind="line"))
        excess += [_excess(point) for point, _ in mine]
    alt = "Local critical batch size over training; bars from the smallest to the largest of the seeds."
    over = Plot(
        "critical_batch_by_branches",
        "Local critical batch size over training",
        alt,
        "epochs at the branch",
        "critical batch size (examples)",
        series,
        y_log=2,
    )
    loss = Plot(
        "branch_losses",
        "What a larger batch costs in loss",
        f"Loss after {window_examples} examples of each branch above that of the branch at the base TBS.",
        f"{words.TOTAL_BATCH_SIZE} of the branch",
        "loss above the base TBS (mean over seeds)",
        excess,
        x_log=2,
    )
    columns = ("rule", "epochs", "seed", "total_batch_size", "smoothed_loss", "critical_batch_size")
    how = (
        f"A batch size recovers when {window_examples:,} examples after the branch its validation loss (smoothed, the "
        f"newest weighing {SMOOTHING:g}) is within {tolerance:g} of the lowest of smaller ones, as all before it are."
    )
    table = Table("branches", columns, rows)
    plots = [over, loss] if series else []
    return Section("Critical batch size by short branches", [*sentences, how], plots, [table])


def _sentence(point: BranchPoint, critical: Mapping[int, int]) -> str:
    found = sorted(critical.values())
    middle = median(found)
    bound = "at least " if middle == point.largest else "at most " if middle == point.base_batch_size else ""
    return (
        f"{point.rule}, {words.count(point.epochs, 'epoch')}: critical batch size {bound}{middle:g} "
        f"(seeds {found[0]} to {found[-1]}, n = {len(found)})."
    )


def _excess(point: BranchPoint) -> Series:
    """Mean over seeds of the loss above the smallest TBS; diverged branches are left out."""
    sizes = sorted({tbs for losses in point.losses.values() for tbs in losses})
    base, x, y = sizes[0], [], []
    for size in sizes:
        above = [losses[size] - losses[base] for losses in point.losses.values() if size in losses and base in losses]
        if above and all(map(math.isfinite, above)):
            x.append(size)
            y.append(sum(above) / len(above))
    return Series(f"{point.rule}, {words.count(point.epochs, 'epoch')}", x, y, kind="line")
