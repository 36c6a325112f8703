"""A choice against the baseline, at every total batch size: to a target, or after a fixed budget."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.analyse.arms import arm_findings
from harness.analyse.conclude import findings
from harness.analyse.findings import Findings
from harness.analyse.protocol import protocol
from harness.analyse.results import Records, observations_by_seed
from harness.analyse.scores import ScoreDifference, Scores, score_cells, score_columns, score_differences, scores
from harness.analyse.sections import Plot, Reference, Section, Series, Table
from harness.plan.design import Design
from harness.plan.target import Target
from harness.plan.trial import Arm
from harness.plan.workload import Workload
from harness.statistics import words
from harness.statistics.comparisons import Comparison, Verdict, by_seed, compare, correct
from harness.statistics.estimates import Interval, pooled_log_spread


@dataclass(frozen=True)
class Contest:
    """One choice beside the baseline, under one LR rule at one total batch size."""

    rule: str
    total_batch_size: int
    baseline: Arm
    choice: Arm

    @property
    def name(self) -> str:
        return str(self.choice.variant["choice"])

    @property
    def is_same(self) -> bool:
        """Whether the choice changes nothing here (what scales with the batch, at the base batch size): one trial is
        not compared with itself, nor counted among the comparisons."""
        return self.baseline.settings == self.choice.settings


def conclude_at_target(
    question: str, design: Design, choices: Iterable[Workload], arms: Sequence[Arm], records: Records
) -> Findings:
    """What each choice's arms need to the target, against the first choice's; `choices` are their workloads."""
    section = target_section(contests(arms), records, design.seeds)
    return _findings(question, design, choices, arms, records, section)


def conclude_after_budget(
    question: str, design: Design, choices: Iterable[Workload], arms: Sequence[Arm], records: Records
) -> Findings:
    """The metric at which each choice's arms end their budget, against the first choice's."""
    section = budget_section(contests(arms), records, design.seeds, design.workload.target)
    return _findings(question, design, choices, arms, records, section)


def _findings(
    question: str,
    design: Design,
    choices: Iterable[Workload],
    arms: Sequence[Arm],
    records: Records,
    section: Section,
) -> Findings:
    measured = arm_findings(design, arms, records)
    concluded = findings(question, design, arms, records, measured, verdict=section.sentences, sections=[section])
    protocols = dict.fromkeys(protocol(replace(design, workload=workload)) for workload in choices)
    return replace(concluded, protocol="; or, as the choice says, ".join(protocols))


def contests(arms: Sequence[Arm]) -> list[Contest]:
    """Every arm against the first choice's arm of its rule and TBS; arms carry `variant["choice"]`, in order."""
    first: dict[tuple[str, int], Arm] = {}
    pairs = []
    for arm in arms:
        key = (arm.scaling_rule, arm.total_batch_size)
        if key in first:
            pairs.append(Contest(*key, first[key], arm))
        first.setdefault(key, arm)
    return pairs


def target_section(pairs: Sequence[Contest], records: Records, seeds: Sequence[int]) -> Section:
    """Ratio of epochs to target of every choice over the baseline; Holm's correction counts all of them."""
    compared = _compared(pairs, records, seeds)
    baseline = str(pairs[0].baseline.variant["choice"])
    sentences = _target_lines(compared, baseline)
    columns = ("ratio", "low", "high", "interval", "p_holm", "verdict", "seeds_that_would_settle_it", "n")
    table = Table(
        "choices_to_target",
        ["scaling_rule", "total_batch_size", "choice", "against", *columns],
        [
            [
                pair.rule, pair.total_batch_size, pair.name, baseline, _known(result.ratio), result.interval.low,
                result.interval.high, result.interval.label, _known(result.p_adjusted),
                "equal" if pair.is_same else str(result.verdict),
                None if result.seeds_needed is None else str(result.seeds_needed), result.n_b,
            ]
            for pair, result in compared
        ],
    )  # fmt: skip
    plot = Plot(
        "choices_to_target",
        f"Epochs to target, over those of {baseline} (hollow: at least that, since it missed)",
        " ".join(sentences),
        words.TOTAL_BATCH_SIZE,
        f"epochs over those of {baseline}",
        _ratio_series(compared),
        [Reference(baseline, 1.0, "y")],
        x_log=2,
        y_log=2,
    )
    return Section(f"Each choice against {baseline}", sentences, [plot] if compared else [], [table])


def _compared(pairs: Sequence[Contest], records: Records, seeds: Sequence[int]) -> list[tuple[Contest, Comparison]]:
    """Every contest that both sides have results for."""
    found = {arm.label: records.of_arm(arm, seeds) for pair in pairs for arm in (pair.baseline, pair.choice)}
    distinct = {str(arm.settings): arm.label for pair in pairs for arm in (pair.baseline, pair.choice)}
    spread = pooled_log_spread([[r.observation() for r in found[label]] for label in distinct.values()])
    raw: dict[str, Comparison] = {}
    for i, pair in enumerate(pairs):
        a, b = (observations_by_seed(found[arm.label]) for arm in (pair.baseline, pair.choice))
        if a and b:
            raw[str(i)] = compare(*by_seed(a, b), same_seeds=True, spread=spread)
    judged = correct({i: result for i, result in raw.items() if not pairs[int(i)].is_same})
    return [(pairs[int(i)], judged.get(i) or _with_itself(result)) for i, result in raw.items()]


def _with_itself(result: Comparison) -> Comparison:
    whole = Interval(1.0, 1.0, 1.0, words.SAME_TRIALS)
    return replace(result, interval=whole, verdict=Verdict.EQUIVALENT, p_adjusted=math.nan, seeds_needed=None)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _ratio_series(compared: Sequence[tuple[Contest, Comparison]]) -> list[Series]:
    lines: dict[str, list[tuple[float, Comparison]]] = {}
    for pair, result in compared:
        lines.setdefault(f"{pair.rule}, {pair.name}", []).append((float(pair.total_batch_size), result))
    return [
        Series(
            label,
            [tbs for tbs, _ in line],
            [result.at_least if math.isinf(result.ratio) else result.ratio for _, result in line],
            [result.interval.low for _, result in line],
            [result.interval.high for _, result in line],
            kind="line",
            hollow=[math.isinf(result.ratio) for _, result in line],
            interval=[result.interval.label for _, result in line],
        )
        for label, line in lines.items()
    ]


def _target_lines(compared: Sequence[tuple[Contest, Comparison]], baseline: str) -> list[str]:
    """One sentence for every choice and rule: what is established where."""
    lines: dict[tuple[str, str], dict[str, list[str]]] = {}
    for pair, result in compared:
        where = f"TBS {pair.total_batch_size}"
        by_verdict = lines.setdefault((pair.name, pair.rule), {})
        if pair.is_same:
            by_verdict.setdefault(words.SAME_TRIALS, []).append(where)
        else:
            by_verdict.setdefault(words.needs_more_or_fewer(result), []).append(f"{where} ({_size(result)})")
    counted = sum(not pair.is_same for pair, _ in compared)
    return [
        f"{choice} against {baseline} under {rule} scaling, epochs to target{words.judged_by(counted)}: "
        + "; ".join(f"{verdict} at {', '.join(places)}" for verdict, places in by_verdict.items())
        + "."
        for (choice, rule), by_verdict in lines.items()
    ] or [words.NOTHING_YET]


def _size(found: Comparison) -> str:
    """The ratio of one pair with its interval and n."""
    return f"{words.times(found)}, {words.interval(found.interval)}, {words.seeds(found.n_b, found.n_a)}"


def budget_section(pairs: Sequence[Contest], records: Records, seeds: Sequence[int], target: Target) -> Section:
    """The metric at the end of equal budgets: mean, spread and n of every choice, its difference to the baseline."""
    arms = list({id(arm): arm for pair in pairs for arm in (pair.baseline, pair.choice)}.values())
    found = {arm.label: scores(records.of_arm(arm, seeds), target.metric) for arm in arms}
    losses = {arm.label: scores(records.of_arm(arm, seeds), "loss") for arm in arms}
    apart = [pair for pair in pairs if not pair.is_same]
    judged = iter(score_differences([(found[pair.baseline.label], found[pair.choice.label]) for pair in apart]))
    nothing = ScoreDifference(0.0, Interval(0.0, 0.0, 1.0, words.SAME_TRIALS), math.nan, math.nan)
    compared = [(pair, nothing if pair.is_same else next(judged)) for pair in pairs]
    baseline, metric = str(pairs[0].baseline.variant["choice"]), target.metric
    sentences = _budget_lines(compared, found, target, baseline)
    differences = {pair.choice.label: difference for pair, difference in compared}
    table = Table(
        "choices_after_budget",
        ["scaling_rule", "total_batch_size", "choice", *score_columns(metric), "difference", "low", "high", "p_holm"],
        [
            [
                arm.scaling_rule, arm.total_batch_size, str(arm.variant["choice"]),
                *score_cells(metric, found[arm.label], losses[arm.label]),
                *_difference_cells(differences.get(arm.label)),
            ]
            for arm in arms
        ],
    )  # fmt: skip
    plot = Plot(
        "choices_after_budget",
        f"{metric.capitalize()} after equal budgets, mean and range of seeds",
        " ".join(sentences),
        words.TOTAL_BATCH_SIZE,
        f"validation {metric}",
        _score_series(arms, found),
        x_log=2,
    )
    return Section(f"After the whole budget, against {baseline}", sentences, [plot], [table])


def _difference_cells(found: ScoreDifference | None) -> list[float | None]:
    if found is None:
        return [None, None, None, None]
    return [_known(found.value), found.interval.low, found.interval.high, _known(found.p_adjusted)]


def _score_series(arms: Sequence[Arm], found: Mapping[str, Scores]) -> list[Series]:
    lines: dict[str, list[tuple[float, Scores]]] = {}
    for arm in arms:
        label = f"{arm.scaling_rule}, {arm.variant['choice']}"
        lines.setdefault(label, []).append((float(arm.total_batch_size), found[arm.label]))
    return [
        Series(
            label,
            [tbs for tbs, _ in line],
            [score.mean for _, score in line],
            [score.low for _, score in line],
            [score.high for _, score in line],
            kind="line",
        )
        for label, line in lines.items()
    ]


def _budget_lines(
    compared: Sequence[tuple[Contest, ScoreDifference]], found: Mapping[str, Scores], target: Target, baseline: str
) -> list[str]:
    """One sentence for every choice and rule: what is established where."""
    lines: dict[tuple[str, str], dict[str, list[str]]] = {}
    for pair, difference in compared:
        ours, theirs = found[pair.choice.label], found[pair.baseline.label]
        if not (ours.n and theirs.n):
            continue
        by_verdict = lines.setdefault((pair.name, pair.rule), {})
        if pair.is_same:
            by_verdict.setdefault(words.SAME_TRIALS, []).append(f"TBS {pair.total_batch_size}")
            continue
        verdict = _after_budget(difference, target, spoilt=bool(ours.diverged or theirs.diverged))
        by_verdict.setdefault(verdict, []).append(_at_the_end(pair, difference, ours, theirs, baseline))
    counted = sum(not math.isnan(difference.p) for _, difference in compared)
    return [
        f"{choice} against {baseline} under {rule} scaling, {target.metric} after the budget"
        f"{words.judged_by(counted)}: "
        + "; ".join(f"{verdict} at {', '.join(places)}" for verdict, places in by_verdict.items())
        + "."
        for (choice, rule), by_verdict in lines.items()
    ] or [words.NOTHING_YET]


def _after_budget(difference: ScoreDifference, target: Target, *, spoilt: bool) -> str:
    if spoilt:
        return "no mean to compare, since seeds diverged,"
    if not difference.is_established:
        return words.NO_DIFFERENCE
    return "better, established" if (difference.value > 0) == (target.mode == "max") else "worse, established"


def _at_the_end(pair: Contest, difference: ScoreDifference, ours: Scores, theirs: Scores, baseline: str) -> str:
    where = f"TBS {pair.total_batch_size}"
    spoilt = [f"{name} {s.diverged} of {s.n}" for name, s in ((pair.name, ours), (baseline, theirs)) if s.diverged]
    if spoilt:
        return f"{where} ({', '.join(spoilt)})"
    bounds = words.interval(difference.interval, "{:+.4f}".format, " to ")
    means = f"{ours.mean:.4f} against {theirs.mean:.4f}, {difference.value:+.4f}"
    return f"{where} ({means}, {bounds}, {words.seeds(ours.n, theirs.n)})"
