"""What a joint search over LR, TBS and momentum found: the points, the best ones, and what they have in common."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.analyse.arms import arm_findings
from harness.analyse.conclude import findings
from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.analyse.sections import Plot, Section, Series, Table
from harness.plan.design import Design
from harness.plan.samplers import Point
from harness.plan.trial import Arm
from harness.statistics import words
from harness.statistics.comparisons import compare
from harness.statistics.estimates import Observation


@dataclass(frozen=True)
class Scored:
    """A point and its median examples to target: infinite where it misses, None while it is open."""

    point: Point
    examples: float | None

    def cost(self, minimise: str) -> float:
        """In examples or updates; infinite where it is not known to reach."""
        examples = math.inf if self.examples is None else self.examples
        return examples if minimise == "examples" else examples / self.point.total_batch_size

    @property
    def effective_lr(self) -> float:
        """LR / (1 - momentum): the length of a step in a steady direction."""
        return self.point.lr / (1 - (self.point.momentum or 0.0))


def conclude(
    design: Design,
    scored: Sequence[Scored],
    reported: Sequence[Arm],
    records: Records,
    *,
    minimise: str,
    tuning_seeds: int,
    is_over: bool,
) -> Findings:
    """The points of the search, and the best of them on fresh seeds; `reported` are its arm and the workload's own at
    its TBS, or the workload's own alone while the best is not known."""
    sections = [joint_section(scored, minimise, design.workload.train_examples, tuning_seeds, is_over)]
    if len(reported) == 2:
        best, own = ([r.observation() for r in records.of_arm(arm, design.seeds)] for arm in reported)
        sections.append(confirmation_section(reported[0], reported[1], best, own))
    return findings(
        f"Which LR, TBS and momentum together reach the target in the fewest {minimise}?",
        design,
        reported,
        records,
        arm_findings(design, reported, records),
        verdict=[line for section in sections for line in section.sentences],
        sections=sections,
    )


def joint_section(scored: Sequence[Scored], minimise: str, train_examples: int, seeds: int, is_over: bool) -> Section:
    """The table of all points, and the cost of each TBS against LR and against LR / (1 - momentum); medians of `seeds`
    tuning seeds."""
    reached = [one for one in scored if math.isfinite(one.cost(minimise))]
    sentences = _sentences(reached, len(scored), minimise, train_examples, seeds) if is_over else [_OPEN]
    has_momentum = any(one.point.momentum is not None for one in scored)
    plots = []
    if reached:
        plots.append(_plot("joint_lr", "LR", reached, minimise, sentences[0]))
    if reached and has_momentum:
        plots.append(_plot("joint_effective_lr", "LR / (1 - momentum)", reached, minimise, sentences[0]))
    columns = ("lr", "total_batch_size", "momentum", "epochs", "updates")
    rows = [
        [
            one.point.lr,
            one.point.total_batch_size,
            one.point.momentum,
            None if one.examples is None else one.examples / train_examples,
            None if one.examples is None else one.examples / one.point.total_batch_size,
        ]
        for one in sorted(scored, key=lambda one: one.cost(minimise))
    ]
    return Section("LR, total batch size and momentum", sentences, plots, [Table("joint_search", columns, rows)])


def confirmation_section(best: Arm, own: Arm, of_best: Sequence[Observation], of_own: Sequence[Observation]) -> Section:
    """The best point against the workload's own LR and momentum at its TBS, on seeds that chose neither (P16)."""
    title = "The best point on fresh seeds"
    against = f"the workload's own LR {own.settings.peak_lr:.3g} and momentum at TBS {own.total_batch_size}"
    if not (of_best and of_own):
        return Section(title, [f"It has not been run on fresh seeds yet, next to {against}."])
    comparison = compare(of_own, of_best)
    n = words.seeds(comparison.n_b, comparison.n_a)
    known = words.interval(comparison.interval)
    if math.isnan(comparison.ratio):
        outcome = f"{words.NO_RATIO} over {against} ({known})"
    else:
        outcome = f"it needs {words.times(comparison)} the epochs of {against} ({known})"
    sentence = f"On fresh seeds ({n}) {outcome}: {words.verdict(comparison.verdict, comparison.margin)}."
    columns = ("total_batch_size", "lr", "own_lr", "ratio", "low", "high", "interval", "p", "verdict", "n", "n_own")
    row = [
        best.total_batch_size, best.settings.peak_lr, own.settings.peak_lr, _known(comparison.ratio),
        comparison.interval.low, comparison.interval.high, comparison.interval.label, comparison.p,
        str(comparison.verdict), comparison.n_b, comparison.n_a,
    ]  # fmt: skip
    return Section(title, [sentence], tables=[Table("joint_search_on_fresh_seeds", columns, [row])])


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


_OPEN = "The search is not finished: run the same command again to resume."


def _sentences(reached: Sequence[Scored], points: int, minimise: str, train_examples: int, seeds: int) -> list[str]:
    def cost(scored: Scored) -> float:
        return scored.cost(minimise)

    def needs(one: Scored) -> str:
        return (
            words.count(f"{cost(one) / train_examples:.3g}", "epoch")
            if minimise == "examples"
            else words.count(f"{cost(one):,.0f}", "update")
        )

    if not reached:
        return [f"None of {points} points reached the target in half of its {words.count(seeds, 'tuning seed')}."]
    best = min(reached, key=cost)
    lines = [
        f"Fewest {minimise} among {words.count(points, 'point')}: {_point_label(best)} needs {needs(best)} "
        f"(median of {words.count(seeds, 'tuning seed')})."
    ]
    sizes = sorted({one.point.total_batch_size for one in reached})
    if len(sizes) > 1:
        tops = [min((one for one in reached if one.point.total_batch_size == size), key=cost) for size in sizes]
        lines.append(f"Best at each TBS: {'; '.join(f'{_point_label(one)} ({needs(one)})' for one in tops)}.")
    return lines


def _point_label(one: Scored) -> str:
    momentum = "" if one.point.momentum is None else f", momentum {one.point.momentum:.3g}"
    return f"TBS {one.point.total_batch_size} with LR {one.point.lr:.3g}{momentum}"


def _plot(name: str, label: str, reached: Sequence[Scored], minimise: str, alt: str) -> Plot:
    series = []
    for size in sorted({one.point.total_batch_size for one in reached}):
        own = [one for one in reached if one.point.total_batch_size == size]
        lrs = [one.point.lr if name == "joint_lr" else one.effective_lr for one in own]
        series.append(Series(f"TBS {size}", lrs, [one.cost(minimise) for one in own]))
    return Plot(
        name=name,
        title=f"{minimise.capitalize()} to target against {label} (median of the tuning seeds)",
        alt=alt,
        x_label=label,
        y_label=f"{minimise} to target",
        series=series,
        x_log=10,
        y_log=2,
    )
