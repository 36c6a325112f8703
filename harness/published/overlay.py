"""Published curves next to a study's own: costs to a target with costs to a target, time budgets with time budgets."""

import math
from collections.abc import Sequence

from harness.analyse.findings import Findings
from harness.analyse.sections import Plot, Section, Series
from harness.plan.outcome import Outcome
from harness.published.curves import Meaning, PublishedArm, PublishedCurve, curve, observation
from harness.published.findings import cost_table
from harness.published.plots import relative, slug
from harness.statistics import words
from harness.statistics.estimates import Observation, median_estimate


def overlay_sections(findings: Findings, published: Sequence[PublishedCurve]) -> list[Section]:
    """A section for each meaning of the published curves (P18); the study's own lines are in both."""
    sections = []
    to_target = [cost for cost in published if cost.meaning is Meaning.TO_TARGET]
    if to_target:
        sections.append(_to_target(findings, own_curves(findings), to_target))
    in_budget = [cost for cost in published if cost.meaning is Meaning.IN_TIME_BUDGET]
    if in_budget:
        sections.append(_in_time_budget(findings, in_budget))
    return sections


def own_curves(findings: Findings) -> list[PublishedCurve]:
    """The study's LR rules as curves of epochs to its target, one value per seed, without arms that have no trial."""
    arms: dict[str, list[PublishedArm]] = {}
    for arm in findings.arms:
        if arm.n:
            runs = tuple(
                Observation(Outcome.CENSORED, math.inf, arm.place.at_least / arm.train_examples)
                if epochs is None
                else observation(epochs)
                for epochs in arm.epochs_by_seed
            )
            arms.setdefault(arm.label, []).append(PublishedArm(arm.total_batch_size, runs, len(runs), lr=arm.peak_lr))
    curves: list[PublishedCurve] = []
    for label, own_arms in arms.items():
        curves += curve(f"this study: {label}", "this study", "epochs", Meaning.TO_TARGET, own_arms)
    return curves


def _to_target(findings: Findings, own: Sequence[PublishedCurve], published: Sequence[PublishedCurve]) -> Section:
    series = [Series(cost.label, *relative(cost), kind="line") for cost in [*own, *published] if relative(cost)]
    ends = "; ".join(f"{s.label} {s.y[-1]:.3g} times at TBS {s.x[-1]:,.0f}" for s in series)
    alt = f"Cost to the target relative to each curve's smallest total batch size: {ends}."
    y_label = "cost, relative to the smallest TBS"
    plots = [_plot("overlay_relative", "Cost to the target, relative", alt, y_label, series)]
    in_epochs = [cost for cost in published if cost.unit == "epochs"]
    if in_epochs:
        series = [_medians(cost) for cost in [*own, *in_epochs]]
        alt = f"Epochs to the target, medians: {'; '.join(_ends(s) for s in series)}."
        plots.append(_plot("overlay_epochs", "Epochs to the target", alt, "epochs to the target", series))
    sentences = [
        "Workloads, targets and tuning differ: compare shapes, not heights.",
        f"This study: {findings.protocol}; target {findings.target}.",
        *[f"{cost.label}: {cost.source}{f'; target {cost.target}' if cost.target else ''}." for cost in published],
    ]
    tables = [cost_table(f"overlay_{slug(cost.label)}", cost) for cost in published]
    return Section("Published costs to a target, compared with this study", sentences, plots, tables)


def _in_time_budget(findings: Findings, published: Sequence[PublishedCurve]) -> Section:
    """What fits into a fixed time, published and in this study; the study's own numbers are from its timing pass."""
    budgets = [budget for budget in findings.fixed_budgets if budget.unit == "seconds"]
    series, own = [_medians(cost) for cost in published], "none, as it has no timing pass"
    if budgets:
        budget = budgets[len(budgets) // 2]
        own = f"epochs that fit into {budget.amount:.3g} s of training"
        lines: dict[str, tuple[list[float], list[float]]] = {}
        for cell in budget.cells:
            xs, ys = lines.setdefault(cell.label, ([], []))
            xs.append(float(cell.total_batch_size))
            ys.append(cell.epochs)
        series = [Series(f"this study: {label}", *line, kind="line") for label, line in lines.items()] + series
    alt = f"Epochs that fit into a fixed time, not epochs to a target: {'; '.join(_ends(s) for s in series)}."
    plot = _plot(
        "overlay_time_budget", "Epochs that fit into a fixed time", alt, "epochs that fit into a fixed time", series
    )
    sentences = [
        "These published epochs are what fits into a fixed time, not the cost to reach a target. From this study: "
        f"{own}.",
        *[f"{cost.label}: {cost.source}." for cost in published],
    ]
    tables = [cost_table(f"overlay_{slug(cost.label)}", cost) for cost in published]
    return Section("Published epochs in a fixed time, compared with this study", sentences, [plot], tables)


def _medians(cost: PublishedCurve) -> Series:
    medians = [(float(arm.total_batch_size), median_estimate(arm.observations).value) for arm in cost.arms]
    reached = [(size, value) for size, value in medians if math.isfinite(value)]
    return Series(cost.label, [size for size, _ in reached], [value for _, value in reached], kind="line")


def _ends(series: Series) -> str:
    if not series.x:
        return f"{series.label}: none reached"
    return f"{series.label} {series.y[0]:.3g} at TBS {series.x[0]:,.0f}, {series.y[-1]:.3g} at TBS {series.x[-1]:,.0f}"


def _plot(name: str, title: str, alt: str, y_label: str, series: Sequence[Series]) -> Plot:
    shown = [line for line in series if line.x]
    return Plot(name, title, alt, words.TOTAL_BATCH_SIZE, y_label, shown, x_log=2, y_log=2)
