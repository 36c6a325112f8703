"""Published curves beside a study's own: costs to a target with costs to a target, time budgets with time budgets."""

import math
from collections.abc import Sequence

from harness.analyse.findings import Findings
from harness.analyse.sections import Plot, Section, Series
from harness.plan.outcome import Outcome
from harness.published.curves import Meaning, PublishedArm, PublishedCurve, curve, observation
from harness.published.findings import cost_table, relative, slug
from harness.statistics.estimates import Observation, median_estimate


def overlay_sections(findings: Findings, published: Sequence[PublishedCurve]) -> list[Section]:
    """A section for each meaning among the published curves (P18); the study's own lines are in both."""
    sections = []
    to_target = [one for one in published if one.meaning is Meaning.TO_TARGET]
    if to_target:
        sections.append(_to_target(own_curves(findings), to_target))
    in_budget = [one for one in published if one.meaning is Meaning.IN_TIME_BUDGET]
    if in_budget:
        sections.append(_in_time_budget(findings, in_budget))
    return sections


def own_curves(findings: Findings) -> list[PublishedCurve]:
    """The study's rules as curves of epochs to its target, seed by seed; those without a finished trial left out."""
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
    return [
        one
        for label, found in arms.items()
        for one in curve(f"this study: {label}", "this study", "epochs", Meaning.TO_TARGET, found)
    ]


def _to_target(own: Sequence[PublishedCurve], published: Sequence[PublishedCurve]) -> Section:
    series = [Series(one.label, *relative(one), kind="line") for one in [*own, *published] if relative(one)]
    ends = "; ".join(f"{s.label} {s.y[-1]:.3g} times at TBS {s.x[-1]:,.0f}" for s in series)
    alt = f"Cost to the target relative to each curve's smallest total batch size: {ends}."
    y_label = "cost, relative to the smallest TBS"
    plots = [_plot("overlay_relative", "Cost to the target, relative", alt, y_label, series)]
    in_epochs = [one for one in published if one.unit == "epochs"]
    if in_epochs:
        series = [_medians(one) for one in [*own, *in_epochs]]
        alt = f"Epochs to the target, medians: {'; '.join(_ends(s) for s in series)}."
        plots.append(_plot("overlay_epochs", "Epochs to the target", alt, "epochs to the target", series))
    sentences = [
        "Workloads, targets and tuning differ: compare shapes, not heights.",
        *[f"{one.label}: {one.source}{f'; target {one.target}' if one.target else ''}." for one in published],
    ]
    tables = [cost_table(f"overlay_{slug(one.label)}", one) for one in published]
    return Section("Published costs to a target beside this study", sentences, plots, tables)


def _in_time_budget(findings: Findings, published: Sequence[PublishedCurve]) -> Section:
    """What fits into one fixed time, of both; the study's own from its timing pass."""
    budgets = [budget for budget in findings.fixed_budgets if budget.unit == "seconds"]
    series, own = [_medians(one) for one in published], "none: this study has no timing pass"
    if budgets:
        budget = budgets[len(budgets) // 2]
        own = f"what {budget.amount:.3g} s of training allow here"
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
        f"These published epochs are what fits into one fixed time, not what a target takes. Beside them: {own}.",
        *[f"{one.label}: {one.source}." for one in published],
    ]
    tables = [cost_table(f"overlay_{slug(one.label)}", one) for one in published]
    return Section("Published fixed-time epochs beside this study", sentences, [plot], tables)


def _medians(one: PublishedCurve) -> Series:
    found = [(float(arm.total_batch_size), median_estimate(arm.observations).value) for arm in one.arms]
    known = [(size, value) for size, value in found if math.isfinite(value)]
    return Series(one.label, [size for size, _ in known], [value for _, value in known], kind="line")


def _ends(series: Series) -> str:
    if not series.x:
        return f"{series.label}: none reached"
    return f"{series.label} {series.y[0]:.3g} at TBS {series.x[0]:,.0f}, {series.y[-1]:.3g} at TBS {series.x[-1]:,.0f}"


def _plot(name: str, title: str, alt: str, y_label: str, series: Sequence[Series]) -> Plot:
    shown = [one for one in series if one.x]
    return Plot(name, title, alt, "total batch size", y_label, shown, x_log=2, y_log=2)
