"""What a study says of its gradient's noise: over training, against batch size, beside critical sizes of a sweep."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.analyse.arms import arm_findings
from harness.analyse.conclude import findings
from harness.analyse.findings import Findings
from harness.analyse.results import Records, TrialResult, median
from harness.analyse.sections import Plot, Reference, Section, Series, Table
from harness.plan.design import Design
from harness.plan.errors import UserError
from harness.plan.trial import Arm
from harness.statistics import words
from harness.statistics.critical_batch import Status
from harness.statistics.noise_scale import (
    NoiseEstimate,
    VarianceAt,
    frozen_estimate,
    frozen_products,
    pooled,
    training_sums,
)

KINDS = ("training", "frozen", "training_preconditioned", "frozen_preconditioned")
TITLES = {
    "training": "Noise scale over training, from micro-batches",
    "frozen": "Noise scale over training, at frozen weights",
    "training_preconditioned": "Noise scale of the gradient as Adam scales it, from micro-batches",
    "frozen_preconditioned": "Noise scale of the gradient as Adam scales it, at frozen weights",
}
CAUTION = (
    "A noise scale predicts the critical batch size to an order of magnitude at best: published ratios of the two run "
    "from 0.05 to 8 (McCandlish et al. 2018, table 1), and an LR that is too small or too large moves it."
)


@dataclass(frozen=True)
class NoiseAt:
    """The estimate of one kind over the seeds of one arm, up to `examples`."""

    kind: str
    label: str
    total_batch_size: int
    examples: int
    epochs: float
    seeds: int
    estimate: NoiseEstimate


@dataclass(frozen=True)
class MeasuredCritical:
    """A critical batch size that a sweep found, in the sweep's words."""

    rule: str
    definition: str
    value: float | None
    low: float | None
    high: float | None
    status: str  # see statistics.critical_batch

    @property
    def is_identified(self) -> bool:
        return self.status == Status.IDENTIFIED and self.value is not None

    def __str__(self) -> str:
        if self.is_identified:
            return f"{_number(self.value)} ({_number(self.low)} to {_number(self.high)})"
        bound = {Status.AT_LEAST: self.low, Status.AT_MOST: self.high}.get(Status(self.status))
        return self.status if bound is None else f"{self.status} {_number(bound)}"


def conclude(
    design: Design,
    arms: Sequence[Arm],
    records: Records,
    every_examples: int,
    critical: Sequence[MeasuredCritical],
) -> Findings:
    """Noise scales of every window of `every_examples`, with the `critical` batch sizes of a sweep where there are
    any."""
    measured = arm_findings(design, arms, records)
    over_training = [
        at
        for arm, results in zip(arms, measured[1], strict=True)
        for at in noise_over_training(arm.label, results, every_examples)
    ]
    places = {
        arm.label: row.place.examples / design.workload.train_examples if row.outcomes.reached else None
        for arm, row in zip(arms, measured[0], strict=True)
    }
    noise = noise_section(over_training, places)
    variance = next(filter(None, (variance_section(results) for results in measured[1] if results)), None)
    sections = [noise] if variance is None else [noise, variance]
    if critical:
        sections.append(comparison_section(over_training, critical))
    return findings(
        "How noisy is the gradient over training, and which total batch size does that predict as critical?",
        design,
        arms,
        records,
        measured,
        verdict=noise.sentences if over_training else ["No trial has measured anything yet."],
        sections=sections,
    )


def noise_over_training(label: str, results: Sequence[TrialResult], every_examples: int) -> list[NoiseAt]:
    """Estimates of every kind that was measured, one a window of `every_examples`, over all seeds that are there."""
    found = []
    windows = max((result.examples // every_examples for result in results), default=0)
    for end in (every_examples * (number + 1) for number in range(windows)):
        rows = [
            [row for row in result.evaluations if end - every_examples < row["examples"] <= end] for result in results
        ]
        for kind in KINDS:
            estimates = _estimate(kind, rows)
            if estimates is not None:
                settings, (seeds, estimate) = results[0].settings, estimates
                epochs = end / settings.train_examples
                found.append(NoiseAt(kind, label, settings.total_batch_size, end, epochs, seeds, estimate))
    return found


def _estimate(kind: str, rows: Sequence[Sequence[Any]]) -> tuple[int, NoiseEstimate] | None:
    """Seeds that have it, and the estimate over them; `rows` of each seed's window."""
    preconditioned = kind.endswith("preconditioned")
    if kind.startswith("training"):
        sums = [[training_sums(row, preconditioned) for row in window] for window in rows]
        there = [[one for one in window if one is not None and len(one.blocks)] for window in sums]
        flat = [one for window in there for one in window]
        return (sum(map(bool, there)), pooled(flat).estimate()) if flat else None
    products = [frozen_products(row, preconditioned) for window in rows for row in window]
    measured = [one for one in products if one is not None]
    return (len(measured), frozen_estimate(measured)) if measured else None


def noise_section(found: Sequence[NoiseAt], places: dict[str, float | None]) -> Section:
    """`places`: where each label's median trial crossed the target, in epochs; None for a miss."""
    sentences = [line for label in _labels(found) for line in _sentences(found, label, places.get(label))]
    plots = [_over_training(kind, found) for kind in KINDS if any(at.kind == kind for at in found)]
    table = _table(found)
    return Section("Gradient noise scale", [*sentences, CAUTION], plots, [table])


def _table(found: Sequence[NoiseAt]) -> Table:
    """One row a place, every kind beside the others; empty where it is not identified."""
    kinds = [kind for kind in KINDS if any(at.kind == kind for at in found)]
    places: dict[tuple[str, int, float, int], dict[str, NoiseEstimate]] = {}
    for at in found:
        places.setdefault((at.label, at.total_batch_size, at.epochs, at.seeds), {})[at.kind] = at.estimate
    rows = []
    for place, estimates in places.items():
        cells: list[float | None] = []
        for estimate in map(estimates.get, kinds):
            if estimate is None or not estimate.is_identified:
                cells += [None, None, None]
            else:
                cells += [estimate.noise_scale, *estimate.interval]
        rows.append((*place, *cells))
    named = [name for kind in kinds for name in (kind, f"{kind}_low", f"{kind}_high")]
    return Table("noise_scale", ("arm", "total_batch_size", "epochs", "seeds", *named), rows)


def _labels(found: Iterable[NoiseAt]) -> list[str]:
    return list(dict.fromkeys(at.label for at in found))


def _sentences(found: Sequence[NoiseAt], label: str, crossing: float | None) -> list[str]:
    """First and last identified estimate of each kind, and the one at the crossing."""
    lines = []
    for kind in KINDS:
        mine = [at for at in found if at.label == label and at.kind == kind]
        known = [at for at in mine if at.estimate.is_identified]
        if not mine:
            continue
        words = kind.replace("_", ", ").replace("frozen", "at frozen weights").replace("training", "in training")
        if not known:
            lines.append(f"{label}, {words}: not identified anywhere, |G|^2 cannot be told from 0.")
            continue
        parts = [f"{at.estimate} examples up to epoch {at.epochs:g}" for at in dict.fromkeys((known[0], known[-1]))]
        at_target = next((at for at in known if crossing is not None and at.epochs >= crossing), None)
        if at_target is not None and at_target not in (known[0], known[-1]):
            parts.insert(1, f"{at_target.estimate} by the target's crossing")
        missing = f"; not identified at {len(mine) - len(known)} of {len(mine)} places" * (len(known) < len(mine))
        lines.append(f"{label}, {words}: {', '.join(parts)}{missing}.")
    return lines


def _over_training(kind: str, found: Sequence[NoiseAt]) -> Plot:
    series = []
    for label in _labels(found):
        known = [at for at in found if at.label == label and at.kind == kind and at.estimate.is_identified]
        if known:
            low, high = zip(*(at.estimate.interval for at in known), strict=True)
            finite = [
                h if math.isfinite(h) else at.estimate.noise_scale or 0 for h, at in zip(high, known, strict=True)
            ]
            scales = [at.estimate.noise_scale or math.nan for at in known]
            series.append(Series(label, [at.epochs for at in known], scales, low, finite, kind="line"))
    alt = f"{TITLES[kind]}, one line per total batch size, with 95 % intervals."
    return Plot(f"noise_scale_{kind}", TITLES[kind], alt, "epochs", "noise scale (examples)", series, y_log=10)


def variance_section(results: Sequence[TrialResult]) -> Section | None:
    """Scatter of batch gradients against their size, early and late in the training of one arm; means over seeds."""
    places = sorted({row["examples"] for r in results for row in r.evaluations if frozen_products(row) is not None})
    if not places:
        return None
    series, rows, sentences = [], [], []
    settings = results[0].settings
    for examples in dict.fromkeys((places[0], places[-1])):
        there = [row for r in results for row in r.evaluations if row["examples"] == examples]
        products = [one for one in map(frozen_products, there) if one is not None]
        at = [_mean(sizes) for sizes in zip(*(one.by_batch_size() for one in products), strict=True)]
        trace = frozen_estimate(products).moments.trace
        epochs = examples / settings.train_examples
        when = f"{epochs:g} epoch{'s' * (epochs != 1)}"
        sizes = [one.examples for one in at]
        series.append(Series(f"measured, {when}", sizes, [one.variance for one in at]))
        series.append(Series(f"1/m, {when}", sizes, [trace / size for size in sizes], kind="curve"))
        rows += [(epochs, one.examples, one.variance, trace / one.examples, one.squared_norm, one.means) for one in at]
        worst = max(at, key=lambda one: abs(one.variance * one.examples / trace - 1))
        off = words.percent(worst.variance * worst.examples / trace - 1, signed=True)
        sentences.append(
            f"After {when} the variance of a batch gradient follows {trace:.3g} / m; farthest from it is m = "
            f"{worst.examples}, {off} (of {words.count(worst.means, 'gradient')} a seed)."
        )
    title = f"Gradient variance against batch size ({settings.total_batch_size} examples a training step)"
    alt = "Variance of the batch gradient against the batch size with the line of one over the batch size."
    axes = {"x_label": "batch size m (examples)", "y_label": "variance of the batch gradient", "x_log": 2, "y_log": 10}
    plot = Plot("gradient_variance", title, alt, series=series, **axes)
    columns = ("epochs", "batch_size", "variance", "one_over_m", "gradient_square", "gradients_a_seed")
    return Section(
        "Gradient variance against batch size", sentences, [plot], [Table("gradient_variance", columns, rows)]
    )


def _mean(at: Sequence[VarianceAt]) -> VarianceAt:
    """Over seeds; they share sizes and numbers."""
    count = len(at)
    variance, square = sum(one.variance for one in at) / count, sum(one.squared_norm for one in at) / count
    return VarianceAt(at[0].examples, variance, square, at[0].means)


def measured_critical(study: Path) -> list[MeasuredCritical]:
    """The critical batch sizes in results.json of a finished sweep; UserError where there are none."""
    try:
        fits = json.loads((study / "results.json").read_text(encoding="utf-8"))["fits"]
        found = [
            MeasuredCritical(
                fit["label"], c["definition"], c["value"], c["interval"]["low"], c["interval"]["high"], c["status"]
            )
            for fit in fits
            for c in fit["critical"]
        ]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"question.sweep={study} is no finished study of a sweep: its results.json cannot be read ({error})"
        ) from error
    if not found:
        raise UserError(f"question.sweep={study} has no critical batch size: it needs a rule that reached at 3 TBS")
    return found


def comparison_section(found: Sequence[NoiseAt], measured: Sequence[MeasuredCritical]) -> Section:
    """Noise scales of a whole run beside the sweep's critical batch sizes, definition by definition."""
    scales = [at.estimate.noise_scale for at in found if at.kind in ("training", "frozen")]
    known = [scale for scale in scales if scale is not None]
    middle = median(known)
    sentences = []
    for critical in measured:
        ratio = (
            f", {middle / critical.value:.2g} times that"
            if middle and critical.value and critical.is_identified
            else ""
        )
        sentences.append(
            f"{critical.rule}, {critical.definition}: {critical}; the median noise scale of this run is "
            f"{_number(middle)}{ratio}."
        )
    rows = [(c.rule, c.definition, c.value, c.low, c.high, c.status, middle) for c in measured]
    columns = ("rule", "definition", "critical_batch_size", "low", "high", "status", "median_noise_scale")
    series = [
        Series(f"{label} noise scale", [at.epochs for at in mine], [at.estimate.noise_scale or 0.0 for at in mine])
        for label in _labels(found)
        if (mine := [at for at in found if at.label == label and at.kind == "frozen" and at.estimate.is_identified])
    ]
    marks = [Reference(f"{c.rule}: {c.definition}", c.value, "y") for c in measured if c.value and c.is_identified]
    alt = "Noise scale over training with the critical batch sizes of a sweep as horizontal lines."
    plots = [Plot("noise_scale_and_critical", "Beside the sweep", alt, "epochs", "examples", series, marks, y_log=10)]
    return Section(
        "Noise scale beside the sweep's critical batch size",
        sentences,
        plots if series else (),
        [Table("critical_batch_sizes", columns, rows)],
    )


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.3g}"
