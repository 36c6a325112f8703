"""Figures of published curves: cost over total batch size, updates against examples, curves next to each other."""

import math
import re
from collections.abc import Sequence

from harness.analyse.rule_fits import RuleFit
from harness.analyse.sections import Plot, Section, Series
from harness.published.curves import Meaning, PublishedArm, PublishedCurve
from harness.statistics import words
from harness.statistics.estimates import median_estimate, pooled_log_spread


def cost_plot(name: str, curve: PublishedCurve, fitted: RuleFit | None) -> Plot:
    """Medians over TBS with the range of the runs, and the fitted curve that describes them, or the hyperbola."""
    spread = pooled_log_spread(curve.by_size.values())
    shown = [(arm, median_estimate(arm.observations, spread)) for arm in curve.arms]
    places = [median.value if math.isfinite(median.value) else median.at_least for _, median in shown]
    known = [i for i, place in enumerate(places) if 0 < place < math.inf]
    ranges = [_range(shown[i][0], places[i]) for i in known]
    series = [
        Series(
            curve.label,
            [float(shown[i][0].total_batch_size) for i in known],
            [places[i] for i in known],
            low=[low for low, _ in ranges],
            high=[high for _, high in ranges],
            hollow=[math.isinf(shown[i][1].value) for i in known],
        )
    ]
    if fitted is not None:
        best = next((fit for fit in fitted.fits if fit.model is fitted.shape), fitted.fits[0])
        # Rounded: a flat curve that differs from the points only in the last bit would give an axis without a range.
        xs, ys = [p.total_batch_size for p in best.curve], [float(f"{p.value:.9g}") for p in best.curve]
        if xs:
            series.append(Series(str(best.model), xs, ys, kind="curve"))
    cost = f"{curve.unit} {curve.meaning.words}"
    ends = [f"{places[i]:.4g} at TBS {shown[i][0].total_batch_size:,}" for i in (known[:1] + known[1:][-1:])]
    alt = f"{curve.label}, {cost}: {', '.join(ends) or 'no run reached'}."
    title = f"{cost[0].upper()}{cost[1:]} over total batch size"
    return Plot(f"{name}_cost", title, alt, words.TOTAL_BATCH_SIZE, cost, series, x_log=2, y_log=2)


def front_plot(name: str, curve: PublishedCurve, fitted: RuleFit) -> Plot:
    """Updates against examples with the hyperbola (S/S_min - 1)(E/E_min - 1) = 1."""
    points = sorted([*fitted.front.arms, *fitted.front.dominated], key=lambda point: point.total_batch_size)
    beaten = [point in fitted.front.dominated for point in points]
    series = [
        Series(curve.label, [p.steps for p in points], [p.examples for p in points], hollow=beaten),
        Series("hyperbola", *_coordinates(fitted), kind="curve"),
    ]
    alt = f"{curve.label}: examples against updates to the target at {len(points)} batch sizes. {fitted.diagnosis}"
    return Plot(
        f"{name}_front", "Updates against examples", alt, "updates to target", "examples to target", series,
        x_log=2, y_log=2,
    )  # fmt: skip


def side_by_side(curves: Sequence[PublishedCurve]) -> list[Section]:
    """Curves of the same meaning on one axis, each relative to its smallest TBS, so that units need not agree."""
    sections = []
    for meaning in Meaning:
        alike = [curve for curve in curves if curve.meaning is meaning and relative(curve)]
        if len(alike) < 2:
            continue
        series = [Series(curve.label, *relative(curve), kind="line") for curve in alike]
        cost = "cost to the target" if meaning is Meaning.TO_TARGET else "epochs that fit into a fixed time"
        ends = "; ".join(f"{s.label}: {s.y[-1]:.3g} times at TBS {s.x[-1]:,.0f}" for s in series)
        alt = f"{cost.capitalize()} relative to each curve's smallest total batch size. {ends}."
        label = f"{'cost' if meaning is Meaning.TO_TARGET else 'epochs that fit'}, relative to the smallest TBS"
        plot = Plot(
            f"relative_{meaning}", f"{cost.capitalize()}, relative", alt, words.TOTAL_BATCH_SIZE, label, series,
            x_log=2, y_log=2,
        )  # fmt: skip
        sections.append(Section(f"Side by side: {cost}", [alt], [plot]))
    return sections


def relative(curve: PublishedCurve) -> tuple[list[float], list[float]] | tuple[()]:
    """TBS and median cost relative to that of the smallest TBS that reached; empty for fewer than two such TBS, and
    where that cost is 0."""
    medians = [(arm.total_batch_size, median_estimate(arm.observations).value) for arm in curve.arms]
    reached = [(float(size), value) for size, value in medians if math.isfinite(value)]
    if len(reached) < 2 or reached[0][1] == 0:
        return ()
    return [size for size, _ in reached], [value / reached[0][1] for _, value in reached]


def slug(label: str) -> str:
    """A label as a file name."""
    return re.sub(r"[^a-z0-9]+", "_", label.lower()).strip("_") or "curve"


def _coordinates(fitted: RuleFit) -> tuple[list[float], list[float]]:
    return [point.steps for point in fitted.front.curve], [point.examples for point in fitted.front.curve]


def _range(arm: PublishedArm, place: float) -> tuple[float, float]:
    reached = [run.value for run in arm.observations if run.reached]
    return min([place, *reached]), max([place, *reached])
