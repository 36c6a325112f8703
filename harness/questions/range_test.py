"""What range tests say as a section of a report: a curve a total batch size, its bounds, and how they grow with TBS."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.analyse.arms import arm_findings
from harness.analyse.conclude import findings
from harness.analyse.findings import Findings
from harness.analyse.results import Records, TrialResult
from harness.analyse.rule_lines import rule_lines, rules_admitted, rules_compared
from harness.analyse.sections import Plot, Section, Series, Table
from harness.plan.design import Design
from harness.plan.outcome import Outcome
from harness.plan.scaling import Rule, exponents_of
from harness.plan.trial import Arm
from harness.statistics import words
from harness.statistics.range_test import WINDOW, RangeBounds, range_bounds
from harness.statistics.tuned_lr import BestLr, LrExponent, lr_exponent

SHOWN = 3.0  # losses above so many times the first one are left out of the figure


@dataclass(frozen=True)
class RisingValue:
    """The value that rises along the test: `of` an evaluation, on an axis that is even in its logarithm."""

    name: str  # of files and columns
    words: str
    of: Callable[[Mapping[str, Any]], float]
    shown: Callable[[float], float]  # from the axis to the value as people write it


LR = RisingValue("lr", "LR", lambda row: float(row["lr"]), lambda x: x)
# Momentum m remembers 1 / (1 - m) updates: evenly spaced in the logarithm of that.
MOMENTUM = RisingValue("momentum", "momentum", lambda row: 1 / (1 - float(row["momentum"])), lambda x: 1 - 1 / x)


@dataclass(frozen=True)
class RangeFinding:
    """The test at one total batch size: the median over seeds of every bound and the range of the most telling one."""

    total_batch_size: int
    n: int
    bounds: RangeBounds
    best_low: float
    best_high: float
    first: float  # ends of the test
    last: float

    @property
    def is_open(self) -> bool:
        """Whether the loss was still falling at the end of the test, so that `best` is a lower bound."""
        return self.bounds.best >= 0.9 * self.last and math.isinf(self.bounds.diverges)


def conclude(
    design: Design, arms: Sequence[Arm], records: Records, rising: RisingValue, grid_factor: float | None = None
) -> Findings:
    """The bounds of every TBS, an arm a TBS; and, where the LR rises, how they grow: `grid_factor` is the ratio of the
    LRs of two evaluations."""
    results = {arm.total_batch_size: records.of_arm(arm, design.seeds) for arm in arms}
    tests = range_findings(results, rising)
    sections = [bounds_section(results, tests, rising)]
    verdict = [*sections[0].sentences[: len(tests)]] or [words.NOTHING_YET]
    if grid_factor is not None:
        growth = growth_section(tests, design.reference_rules, grid_factor)
        sections.insert(0, growth)
        verdict = [*growth.sentences, *verdict]
    measured = arm_findings(design, arms, records)
    question = f"How far can the {rising.words} rise at each total batch size?"
    return findings(question, design, arms, records, measured, verdict=verdict, sections=sections)


def range_findings(by_tbs: Mapping[int, Sequence[TrialResult]], rising: RisingValue) -> list[RangeFinding]:
    """One for every TBS with results, ascending."""
    found = []
    for tbs, results in sorted(by_tbs.items()):
        runs = [curve for result in results if result.outcome.is_data and len(curve := _curve(result, rising)[0])]
        trials = [result for result in results if result.outcome.is_data and result.evaluations]
        if not runs:
            continue
        each = [range_bounds(*_curve(r, rising), blew_up=r.outcome is Outcome.DIVERGED) for r in trials]
        best = [one.best for one in each if not math.isnan(one.best)] or [math.nan]
        middle = RangeBounds(*(_median([getattr(one, name) for one in each]) for name in RangeBounds.__annotations__))
        ends = min(run[0] for run in runs), max(run[-1] for run in runs)
        found.append(RangeFinding(tbs, len(each), middle, min(best), max(best), *ends))
    return found


def _curve(result: TrialResult, rising: RisingValue) -> tuple[list[float], list[float]]:
    """The rising value and the validation loss of the raw weights, nan where training had blown up."""
    losses = [row["validation"].get("raw", {}).get("loss") for row in result.evaluations]
    return [rising.of(row) for row in result.evaluations], [math.nan if x is None else float(x) for x in losses]


def _median(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.median(known)) if known else math.nan


def bounds_section(
    by_tbs: Mapping[int, Sequence[TrialResult]], found: Sequence[RangeFinding], rising: RisingValue
) -> Section:
    """The curves and the table of bounds."""
    confounded = "Training goes on while it rises, so that a falling loss says little of which momentum is best."
    return Section(
        title=f"Validation loss while the {rising.words} rises",
        sentences=[
            *(_bounds_line(one, rising) for one in found),
            f"Bounds are read from each seed's own curve (running mean over {WINDOW} evaluations); medians over seeds.",
            *([confounded] if rising is MOMENTUM else []),
        ],
        plots=[_curves_plot(by_tbs, found, rising)] if found else [],
        tables=[_bounds_table(found, rising)],
    )


def _bounds_line(one: RangeFinding, rising: RisingValue) -> str:
    def written(x: float) -> str:
        return "unknown" if math.isnan(x) else f"{rising.shown(x):.3g}"

    bounds, at = one.bounds, f"TBS {one.total_batch_size} (n = {one.n})"
    ends = f"{written(one.first)} to {written(one.last)}"
    if math.isnan(bounds.best):
        return f"{at}: the loss falls nowhere between {rising.words} {ends}."
    lost = f"lost again at {written(bounds.diverges)}"
    if math.isinf(bounds.diverges):
        lost = f"not lost again within the test ({ends})"
    until = "was still falling at the end of the test" if one.is_open else f"stops falling at {written(bounds.best)}"
    return (
        f"{at}: the loss begins to fall at {rising.words} {written(bounds.begins)}, falls fastest at "
        f"{written(bounds.steepest)}, {until}"
        f"{'' if one.is_open else f' (seeds {written(one.best_low)} to {written(one.best_high)})'}, "
        f"and half of the fall is {lost}."
    )


def _bounds_table(found: Sequence[RangeFinding], rising: RisingValue) -> Table:
    def cell(x: float) -> float | None:
        return None if math.isnan(x) else (x if math.isinf(x) else rising.shown(x))

    columns = ("begins_to_fall", "steepest", "stops_falling", "stops_falling_low", "stops_falling_high", "diverges")
    return Table(
        f"{rising.name}_range",
        ["total_batch_size", "n", *(f"{rising.name}_{column}" for column in columns), "still_falling_at_the_end"],
        [
            [
                one.total_batch_size,
                one.n,
                *map(cell, (one.bounds.begins, one.bounds.steepest, one.bounds.best)),
                *map(cell, (one.best_low, one.best_high, one.bounds.diverges)),
                "yes" if one.is_open else "no",
            ]
            for one in found
        ],
    )


def _curves_plot(
    by_tbs: Mapping[int, Sequence[TrialResult]], found: Sequence[RangeFinding], rising: RisingValue
) -> Plot:
    series = []
    for one in found:
        curves = [dict(zip(*_curve(result, rising), strict=True)) for result in by_tbs[one.total_batch_size]]
        points = []
        for x in sorted({x for curve in curves for x in curve}):
            losses = [curve[x] for curve in curves if x in curve and math.isfinite(curve[x])]
            first = [next(iter(curve.values())) for curve in curves if curve]
            if losses and float(np.median(losses)) <= SHOWN * max(first):
                points.append((x, float(np.median(losses)), min(losses), min(max(losses), SHOWN * max(first))))
        xs, ys, low, high = (list(column) for column in zip(*points, strict=True)) if points else ([], [], [], [])
        series.append(Series(f"TBS {one.total_batch_size}", xs, ys, low, high, kind="band"))
    label = "LR" if rising is LR else "memory of the momentum m, 1 / (1 - m) updates"
    said = "; ".join(_bounds_line(one, rising) for one in found)
    return Plot(
        f"{rising.name}_range",
        f"Validation loss while the {rising.words} rises, median and range of seeds",
        said,
        label,
        "validation loss",
        series,
        x_log=10,
        y_log=10,
    )


def growth_section(found: Sequence[RangeFinding], rules: Sequence[Rule], grid_factor: float) -> Section:
    """How the LR at which the loss stops falling grows with the batch, beside `rules`."""
    known = [one for one in found if not math.isnan(one.bounds.best)]
    points = [BestLr(one.total_batch_size, one.bounds.best, one.is_open) for one in known]
    exponent = lr_exponent(points, exponents_of(rules), grid_factor)
    sizes = [float(one.total_batch_size) for one in known]
    series = [
        Series(
            "stops falling",
            sizes,
            [one.bounds.best for one in known],
            [one.best_low for one in known],
            [one.best_high for one in known],
            hollow=[one.is_open for one in known],
        ),
        Series("diverges", sizes, [one.bounds.diverges for one in known]),
    ]
    closed = [one for one in known if not one.is_open]
    if closed:
        start = closed[0]
        lines = rule_lines(rules, sizes, (start.total_batch_size, start.bounds.best))
        series += [Series(line.rule, line.total_batch_sizes, line.lrs, kind="curve") for line in lines if line.lrs]
    sentence = growth_line(exponent, closed, rules)
    plot = Plot(
        "largest_lr",
        "Largest useful LR over TBS",
        sentence,
        words.TOTAL_BATCH_SIZE,
        "LR",
        series,
        x_log=2,
        y_log=2,
    )
    return Section("How far the LR can rise with the batch", [sentence], [plot] if known else [])


def growth_line(exponent: LrExponent, closed: Sequence[RangeFinding], rules: Sequence[Rule]) -> str:
    """The exponent in words, or why there is none."""
    if math.isnan(exponent.exponent):
        return "How the largest useful LR grows with TBS is not known: it takes two total batch sizes that show one."
    ends = ", ".join(f"{one.bounds.best:.3g} at TBS {one.total_batch_size}" for one in (closed[0], closed[-1]))
    interval = (
        f"{exponent.interval.label} interval {exponent.interval.low:.2f} to {exponent.interval.high:.2f}"
        if math.isfinite(exponent.interval.low)
        else exponent.interval.label
    )
    out = (
        f"; left out, still falling at the end: TBS {', '.join(map(str, exponent.left_out))}"
        if exponent.left_out
        else ""
    )
    return (
        f"The LR at which the loss stops falling ({ends}) grows as TBS^{exponent.exponent:.2f} "
        f"({interval}, {exponent.points} total batch sizes; {rules_compared(rules)}), "
        f"which {rules_admitted(exponent.admits)}{out}. It bounds the LR of a "
        "short run and says nothing of which LR is best."
    )
