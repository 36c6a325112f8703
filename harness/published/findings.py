"""Published curves as findings: with the same estimates, fits and definitions as a study's, one section per curve."""

import math
import re
from collections.abc import Sequence

import numpy as np

from harness.analyse.findings import Findings
from harness.analyse.rule_fits import LEAST_ARMS, RuleFit, fit_curve, reached_arms
from harness.analyse.sections import Plot, Section, Series, Table
from harness.plan.outcome import Outcome
from harness.plan.settings import fingerprint
from harness.published.csv_table import Finals
from harness.published.curves import Meaning, PublishedArm, PublishedCurve
from harness.published.mlperf import mlperf_table, pruned_set
from harness.published.read import Publication
from harness.statistics import words
from harness.statistics.comparisons import p_mean_below
from harness.statistics.estimates import Observation, ReachRate, median_estimate, pooled_log_spread, reach_rate


def published_findings(publications: Sequence[Publication]) -> Findings:
    """Findings on imported data alone; they contain no trial of ours."""
    curves = [curve for publication in publications for curve in publication.curves]
    sections, verdict, open_lines = [], [], []
    for curve in curves:
        fitted = _fit(curve)
        sections.append(curve_section(curve, fitted))
        headline, is_open = _headline(curve, fitted)
        (open_lines if is_open else verdict).append(headline)
    sections += [finals_section(finals) for publication in publications for finals in publication.finals]
    verdict += [_finals_line(finals) for publication in publications for finals in publication.finals]
    for publication in publications:
        for table in publication.tables:
            sections.append(Section(publication.name, [publication.about], tables=[table]))
            verdict.append(f"{publication.name}: {publication.about}")
    if len(curves) > 1:
        sections += side_by_side(curves)
    names = ", ".join(publication.name for publication in publications)
    return Findings(
        question=f"What do published runs say about cost over total batch size? ({names})",
        protocol="as published",
        target="; ".join(dict.fromkeys(curve.target for curve in curves if curve.target)),
        read_beside=None,
        verdict=verdict or ["These tables establish nothing."],
        not_established=open_lines,
        aims_at_target=False,
        arms=[],
        comparisons=[],
        fits=[],
        sections=sections,
        curves=[],
        fixed_budgets=[],
        by_target=[],
        reach=[],
        caveats=_caveats(curves),
        metric="",
        target_value=math.nan,
        outcomes={},
        planned=0,
        settings=[],
        data=fingerprint([repr(publication) for publication in publications], 16),
        trials=0,  # of ours; other people's runs are in the sections
        provenance={"experiment": "published", "name": names},
    )


def curve_section(curve: PublishedCurve, fitted: RuleFit | None) -> Section:
    """One curve: what it is, its numbers with intervals, its fits, and MLPerf's own arithmetic for MLPerf's curves."""
    name = slug(curve.label)
    sentences = [f"Source: {curve.source}. {_unit_words(curve)}{f'; target: {curve.target}' if curve.target else ''}."]
    plots, tables = [cost_plot(name, curve, fitted)], [cost_table(name, curve)]
    if curve.meaning is Meaning.IN_TIME_BUDGET:
        sentences.append(
            "These are epochs that fit into a fixed time, so they measure throughput, not the cost to reach a target: "
            "no critical batch size is fitted to them, and no cost to a target is drawn on their axis."
        )
    elif fitted is None:
        sentences.append(f"No curve was fitted: that needs {LEAST_ARMS} total batch sizes that reached the target.")
    else:
        sentences += [f"{fitted.diagnosis} {fitted.choice.sentence}"]
        sentences += [f"Critical batch size {size}: {size.definition}." for size in fitted.critical]
        sentences += [_outlier_line(outlier.total_batch_size, outlier.ratio) for outlier in fitted.outliers]
        tables.append(fit_table(name, curve, fitted))
        if curve.examples_per_unit is not None:
            plots.append(front_plot(name, curve, fitted))
    if any(arm.hits for arm in curve.arms):
        tables.append(hits_table(name, curve))
    if curve.submission_runs:
        judges = ", ".join(f"{size:,}" for size in pruned_set(curve))
        sentences.append(f"Reference points that judge a submission of {curve.submission_runs} runs: {judges or '-'}.")
        tables.append(mlperf_table(f"{name}_mlperf", curve))
    return Section(curve.label, sentences, plots, tables)


def finals_section(finals: Finals) -> Section:
    """Finished runs of one recipe: how many met the target, and the speed-run test of whether their mean does."""
    rate = finals_rate(finals)
    values = np.array(finals.values)
    below = [*values] if finals.target.mode == "min" else [*-values]
    threshold = finals.target.value if finals.target.mode == "min" else -finals.target.value
    row = [
        len(values),
        rate.reached,
        rate.rate,
        rate.interval.low,
        rate.interval.high,
        float(values.mean()),
        float(values.std(ddof=1)) if len(values) > 1 else None,
        _known(p_mean_below(below, threshold)),
    ]
    columns = ["runs", "met_target", "rate", "rate_low", "rate_high", "mean", "sd", "p_one_sided_t"]
    sentences = [f"Source: {finals.source}.", _finals_line(finals)]
    return Section(finals.label, sentences, tables=[Table(f"{slug(finals.label)}_finals", columns, [row])])


def finals_rate(finals: Finals) -> ReachRate:
    """Share of the runs whose final metric meets the target, with its intervals."""
    met = [finals.target.reached(value) for value in finals.values]
    return reach_rate(
        [Observation(Outcome.REACHED, 1.0, 0.0) if hit else Observation(Outcome.CENSORED, math.inf, 1.0) for hit in met]
    )


def cost_table(name: str, curve: PublishedCurve) -> Table:
    """Every total batch size with its median, its interval and how the number was obtained."""
    spread = pooled_log_spread(curve.by_size.values())
    rows = []
    for arm in curve.arms:
        median = median_estimate(arm.observations, spread)
        interval = median.interval
        has_interval = 1 < arm.runs == len(arm.observations)  # a mean, a best of many or a single run has none
        ends = [interval.low, interval.high, interval.label] if has_interval else [None, None, arm.note]
        per = curve.examples_per_unit
        steps = median.value * per / arm.total_batch_size if per else None
        reached = f"{median.reached}/{median.n}"
        rows.append([arm.total_batch_size, arm.runs, reached, median.value, *ends, steps, arm.lr, arm.sd, arm.note])
    cost = f"{curve.unit}_{'to_target' if curve.meaning is Meaning.TO_TARGET else 'in_time_budget'}"
    columns = ["total_batch_size", "runs", "reached", cost, "low", "high", "interval", "updates", "lr", "sd", "note"]
    filled = [i for i in range(len(columns)) if i < 4 or any(row[i] not in (None, "") for row in rows)]
    return Table(f"{name}_costs", [columns[i] for i in filled], [[row[i] for i in filled] for row in rows])


def hits_table(name: str, curve: PublishedCurve) -> Table:
    """Where each run first touched the target, crossed it with confirmation, and held it to the end."""
    rows = [
        [arm.total_batch_size, number, _known(hit.first_touch), _known(hit.crossed), _known(hit.held_from)]
        for arm in curve.arms
        for number, hit in enumerate(arm.hits)
    ]
    return Table(f"{name}_hits", ["total_batch_size", "run", "first_touch", "crossed", "held_for_good_from"], rows)


def fit_table(name: str, curve: PublishedCurve, fitted: RuleFit) -> Table:
    """Every parameter of every model; S_min only where updates are known."""
    rows = [
        [
            str(fit.model),
            parameter.name,
            parameter.value,
            parameter.interval.low,
            parameter.interval.high,
            _known(fit.quality.rms_error),
            _known(fit.quality.left_out_error),
        ]
        for fit in fitted.fits
        for parameter in fit.parameters
        if parameter.name != "S_min" or curve.examples_per_unit is not None
    ]
    columns = ["curve", "parameter", "value", "low", "high", "rms_error", "left_out_error"]
    return Table(f"{name}_fits", columns, rows)


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


def _fit(curve: PublishedCurve) -> RuleFit | None:
    if curve.meaning is not Meaning.TO_TARGET or reached_arms(curve.by_size) < LEAST_ARMS:
        return None
    return fit_curve(curve.label, curve.by_size, curve.examples_per_unit or 1.0)


def _coordinates(fitted: RuleFit) -> tuple[list[float], list[float]]:
    return [point.steps for point in fitted.front.curve], [point.examples for point in fitted.front.curve]


def _range(arm: PublishedArm, place: float) -> tuple[float, float]:
    reached = [run.value for run in arm.observations if run.reached]
    return min([place, *reached]), max([place, *reached])


def _headline(curve: PublishedCurve, fitted: RuleFit | None) -> tuple[str, bool]:
    """One line on a curve, and whether it belongs to what is not established."""
    if curve.meaning is Meaning.IN_TIME_BUDGET:
        ends = [curve.arms[0], curve.arms[-1]]
        amounts = " and ".join(f"{arm.observations[0].place:g} at TBS {arm.total_batch_size:,}" for arm in ends)
        return f"{curve.label}: {amounts} {curve.unit} fit into a fixed time; this says nothing about a target.", False
    if fitted is None:
        return f"{curve.label}: {reached_arms(curve.by_size)} TBS reached the target, too few for a curve", True
    if not fitted.is_hyperbola:
        return f"{curve.label}: no critical batch size: {fitted.diagnosis.rstrip('.')}", True
    return f"{curve.label}: critical batch size (E_min / S_min) {fitted.critical[0]}. {fitted.diagnosis}", False


def _finals_line(finals: Finals) -> str:
    rate = finals_rate(finals)
    return (
        f"{finals.label}: {rate.reached} of {rate.n} runs end with {finals.target.metric} "
        f"{'at or below' if finals.target.mode == 'min' else 'at or above'} {finals.target.value:g} "
        f"({words.interval(rate.interval, words.percent)}), "
        f"mean {float(np.mean(finals.values)):.5g}."
    )


def _unit_words(curve: PublishedCurve) -> str:
    return f"Costs are {curve.unit} {curve.meaning.words}"


def _outlier_line(size: int, ratio: float) -> str:
    return f"A run at TBS {size:,} is at {ratio:.2g} times the median of its arm: check it."


def _caveats(curves: Sequence[PublishedCurve]) -> list[str]:
    lines = ["published numbers: tuning, split and target were chosen by their authors and differ between sources"]
    if any(arm.runs > len(arm.observations) for curve in curves for arm in curve.arms):
        lines.append("means and bests come without a spread: their arms have equal weight in a fit")
    unknown = [curve.label for curve in curves if curve.unit == "epochs" and curve.examples_per_unit is None]
    if unknown:
        lines.append(f"updates are unknown without --train-examples N: {', '.join(unknown)}")
    return lines


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
