"""Which weight decay (or other argument of the optimizer) ends its budget with the best metric at each total batch
size, and what that is worth on seeds that did not choose it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.analyse.arms import arm_findings
from harness.analyse.conclude import findings
from harness.analyse.final_values import final_value, median_final
from harness.analyse.findings import Findings
from harness.analyse.results import Records, TrialResult
from harness.analyse.scores import ScoreDifference, Scores, score_differences, scores
from harness.analyse.sections import Plot, Reference, Section, Series, Table
from harness.plan.bisection import Bisection
from harness.plan.design import Design
from harness.plan.target import Target
from harness.plan.trial import Arm
from harness.statistics import words


@dataclass(frozen=True)
class Searched:
    """What was searched for, alike at every total batch size."""

    parameter: str  # of the optimizer
    own: float  # its value in the workload
    metric: Target  # whose final value counts
    tuning_seeds: int


@dataclass(frozen=True)
class SearchAt:
    """The search at one total batch size."""

    total_batch_size: int
    bisection: Bisection
    tuning: Mapping[float, Sequence[TrialResult]]  # by value: the finished trials of the tuning seeds
    reported: Sequence[Arm]  # the own value's, and the best one's once it is known and another


@dataclass(frozen=True)
class Fresh:
    """The optimizer's own value and the best one of a search, on seeds that chose neither."""

    own: Scores
    best: Scores
    change: ScoreDifference  # best minus own


def search_score(results: Sequence[TrialResult], metric: Target, tuning_seeds: int) -> float | None:
    """What the search makes smaller: the median final metric, its sign turned where larger is better; None while any
    of the tuning seeds is missing."""
    median = median_final(results, metric)
    return None if len(results) < tuning_seeds else (median if metric.mode == "min" else -median)


def conclude(design: Design, searched: Searched, searches: Sequence[SearchAt], records: Records) -> Findings:
    """What the search at each total batch size chose, and what fresh seeds say of it."""
    arms = [arm for search in searches for arm in search.reported]
    fresh = _on_fresh_seeds(searches, searched.metric, design.seeds, records)
    sections = [_section(search, searched, fresh.get(search.total_batch_size)) for search in searches]
    if fresh:
        sections.append(_fresh_section(searches, searched, fresh))
    return findings(
        f"Which {searched.parameter} ends its budget with the best validation {searched.metric.metric}?",
        design,
        arms,
        records,
        arm_findings(design, arms, records),
        verdict=[line for section in sections for line in section.sentences[:1]],
        sections=sections,
    )


def _on_fresh_seeds(
    searches: Sequence[SearchAt], metric: Target, seeds: Sequence[int], records: Records
) -> dict[int, Fresh]:
    """The optimizer's own value and the best one on the reporting seeds, at every TBS where they differ."""
    pairs = {
        search.total_batch_size: [scores(records.of_arm(arm, seeds), metric.metric) for arm in search.reported]
        for search in searches
        if len(search.reported) == 2
    }
    changes = score_differences([(own, best) for own, best in pairs.values()])
    return {
        tbs: Fresh(own, best, change)
        for (tbs, (own, best)), change in zip(pairs.items(), changes, strict=True)
        if own.n and best.n
    }


def _fresh_section(searches: Sequence[SearchAt], searched: Searched, fresh: Mapping[int, Fresh]) -> Section:
    parameter, metric = searched.parameter, searched.metric.metric
    chosen = {search.total_batch_size: search.bisection.best for search in searches}
    columns = (f"own_{metric}_mean", f"own_{metric}_sd", f"best_{metric}_mean", f"best_{metric}_sd")
    table = Table(
        f"{parameter}_on_fresh_seeds",
        ["total_batch_size", "own", "best", *columns, "difference", "low", "high", "p_holm", "n"],
        [
            [
                tbs, searched.own, chosen[tbs], pair.own.mean, pair.own.sd, pair.best.mean, pair.best.sd,
                pair.change.value, pair.change.interval.low, pair.change.interval.high, pair.change.p_adjusted,
                pair.best.n,
            ]
            for tbs, pair in fresh.items()
        ],
    )  # fmt: skip
    return Section(f"The best {parameter} against the optimizer's own, on fresh seeds", [], [], [table])


def _section(search: SearchAt, searched: Searched, fresh: Fresh | None) -> Section:
    parameter, metric, tbs = searched.parameter, searched.metric.metric, search.total_batch_size
    rows = []
    for value in sorted(search.bisection.values):
        finals = [final_value(result, searched.metric) for result in search.tuning[value]]
        median = median_final(search.tuning[value], searched.metric)
        rows.append([value, median, min(finals, default=None), max(finals, default=None), len(finals)])
    positive = [row for row in rows if row[0] > 0 and row[-1]]
    sentences = _sentences(search, searched, fresh)
    plot = Plot(
        name=f"{parameter}_tbs_{tbs}",
        title=f"Final validation {metric} against {parameter}, TBS {tbs} (median and range)",
        alt=sentences[0],
        x_label=parameter,
        y_label=f"final validation {metric}",
        series=[Series("tuning seeds", *([row[i] for row in positive] for i in range(4)), kind="line")],
        references=[Reference(f"{parameter} 0", row[1], "y") for row in rows if row[0] == 0 and row[-1]],
        x_log=10,
    )
    table = Table(f"{parameter}_tbs_{tbs}", (parameter, f"final_{metric}", "lowest", "highest", "n"), rows)
    return Section(f"{parameter} at TBS {tbs}", sentences, [plot], [table])


def _sentences(search: SearchAt, searched: Searched, fresh: Fresh | None) -> list[str]:
    """The conclusion first: what the search chose, and what fresh seeds say of it."""
    where, metric, own = f"At TBS {search.total_batch_size}", searched.metric.metric, searched.own
    bisection, best = search.bisection, search.bisection.best
    if not bisection.is_over or best is None:
        return [f"{where} the search is not finished, or every value diverged."]
    chosen = (
        f"{where} {searched.parameter} {best:.3g} ends with the best validation {metric}, "
        f"{abs(bisection.scores[best]):.4g} (median of {words.count(searched.tuning_seeds, 'tuning seed')})"
    )
    edge = [f"{best:.3g} is the largest value tried: the best one may lie beyond."] if bisection.at_edge else []
    if best == own:
        return [f"{chosen}; it is the optimizer's own value.", *edge]
    if fresh is None:
        return [f"{chosen}; not yet run on fresh seeds.", *edge]
    if fresh.own.diverged or fresh.best.diverged:
        diverged = (
            f"{fresh.best.diverged} of {fresh.best.n} diverged, {fresh.own.diverged} of {fresh.own.n} at {own:.3g}"
        )
        return [f"{chosen}; on fresh seeds {diverged}: their means say nothing.", *edge]
    change = fresh.change
    judged = "established" if change.is_established else words.NO_DIFFERENCE
    p = f", {words.p_holm(change.p_adjusted)}" if math.isfinite(change.interval.low) else ""
    known = f"{words.interval(change.interval, '{:+.3g}'.format, ' to ')}{p}"
    return [
        f"{chosen}; on fresh seeds it changes the mean {metric} by {change.value:+.3g} against {own:.3g} "
        f"({known}, {words.seeds(fresh.best.n, fresh.own.n)}): {judged}.",
        *edge,
    ]
