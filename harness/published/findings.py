"""Published curves as findings: with the same estimates, fits and definitions as a study's, one section per curve."""

import math
from collections.abc import Sequence

import numpy as np

from harness.analyse.findings import Findings
from harness.analyse.rule_fits import LEAST_ARMS, RuleFit, fit_curve, reached_arms
from harness.analyse.sections import Section, Table
from harness.plan.outcome import Outcome
from harness.plan.settings import fingerprint
from harness.published.curves import Meaning, PublishedCurve
from harness.published.evaluation_table import Finals
from harness.published.mlperf import mlperf_table, pruned_set
from harness.published.overhead import CostMore, Overhead, check_reference, cost_more, has_data_cost, rise_table
from harness.published.plots import cost_plot, front_plot, side_by_side, slug
from harness.published.read import Publication
from harness.statistics import words
from harness.statistics.comparisons import p_mean_below
from harness.statistics.estimates import Observation, ReachRate, median_estimate, pooled_log_spread, reach_rate


def published_findings(publications: Sequence[Publication], overhead: Overhead | None = None) -> Findings:
    """Findings on imported data alone; they contain no trial of ours. UserError for a reference that no curve has."""
    curves = [curve for publication in publications for curve in publication.curves]
    sections, verdict, open_lines = [], [], []
    fits = [_fit(curve) for curve in curves]
    answers = [cost_more(curve, fitted, overhead or Overhead()) for curve, fitted in zip(curves, fits, strict=True)]
    check_reference(answers)
    for curve, fitted, answer in zip(curves, fits, answers, strict=True):
        sections.append(curve_section(curve, fitted, answer))
        headline, is_open = _headline(curve, fitted, answer)
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


def curve_section(curve: PublishedCurve, fitted: RuleFit | None, answer: CostMore) -> Section:
    """One curve: what it is, its numbers with intervals, where more data is needed, its fits, and MLPerf's own
    arithmetic for MLPerf's curves."""
    name = slug(curve.label)
    sentences = [f"Source: {curve.source}. {_unit_words(curve)}{f'; target: {curve.target}' if curve.target else ''}."]
    plots, tables = [cost_plot(name, curve, fitted)], [cost_table(name, curve)]
    if curve.meaning is Meaning.IN_TIME_BUDGET:
        sentences.append(
            "These are epochs that fit into a fixed time, so they measure throughput, not the cost to reach a target: "
            "no critical batch size is fitted to them, and no cost to a target is drawn on their axis."
        )
    elif not has_data_cost(curve):
        sentences.append("Seconds depend on the machine: no critical batch size is fitted to them.")
    else:
        if line := answer.line():
            sentences.append(f"{_capital(line)}{'' if answer.refused else ', without a fitted curve'}.")
        if answer.rises:
            tables.append(rise_table(name, answer.rises))
        sentences += _fit_sentences(curve, fitted, answer)
    if fitted is not None:
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


def _fit_sentences(curve: PublishedCurve, fitted: RuleFit | None, answer: CostMore) -> list[str]:
    if fitted is None:
        return [f"No curve was fitted: that needs {LEAST_ARMS} total batch sizes that reached the target."]
    sentences = [f"{fitted.diagnosis} {fitted.choice.sentence}"]
    sentences += [f"Critical batch size {size}: {size.definition}." for size in answer.critical]
    if not fitted.is_hyperbola:
        sentences.append(f"No critical batch size E_min / S_min under {curve.label}: no hyperbola describes it.")
    return sentences + [_outlier_line(outlier.total_batch_size, outlier.ratio) for outlier in fitted.outliers]


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


def _fit(curve: PublishedCurve) -> RuleFit | None:
    if not has_data_cost(curve) or reached_arms(curve.by_size) < LEAST_ARMS:
        return None
    return fit_curve(curve.label, curve.by_size, curve.examples_per_unit or 1.0)


def _headline(curve: PublishedCurve, fitted: RuleFit | None, answer: CostMore) -> tuple[str, bool]:
    """A line on a curve, what needs no fit first, and whether it belongs to what is not established."""
    if curve.meaning is Meaning.IN_TIME_BUDGET:
        ends = [curve.arms[0], curve.arms[-1]]
        amounts = " and ".join(f"{arm.observations[0].place:g} at TBS {arm.total_batch_size:,}" for arm in ends)
        return f"{curve.label}: {amounts} {curve.unit} fit into a fixed time; this says nothing about a target.", False
    if not has_data_cost(curve):
        return f"{curve.label}: seconds depend on the machine, so there is no critical batch size", True
    parts = [line] if (line := answer.line()) else []
    if fitted is None:
        parts.append(f"{reached_arms(curve.by_size)} TBS reached the target, too few for a curve")
    elif fitted.is_hyperbola and answer.critical:
        parts += [f"E_min / S_min under {curve.label}: {answer.critical[0]}", fitted.diagnosis]
    else:
        parts.append(fitted.diagnosis)
    return f"{curve.label}: {'. '.join(part.rstrip('.') for part in parts)}.", not answer.is_shown


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


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
