"""A comparison of two studies as findings, for every renderer."""

import math
from dataclasses import asdict

from harness.analyse.findings import Findings
from harness.analyse.sections import Plot, Reference, Section, Series, Table
from harness.analyse.two_studies import ArmChange, StudyComparison
from harness.plan.settings import fingerprint
from harness.record.journal import damaged
from harness.statistics import words
from harness.statistics.comparisons import Verdict


def comparison_findings(found: StudyComparison) -> Findings:
    """Verdict, the ratios with their intervals, and what was set differently."""
    decided = [arm for arm in found.arms if arm.epochs.verdict is not Verdict.NOT_ESTABLISHED]
    undecided = [arm for arm in found.arms if arm.epochs.verdict is Verdict.NOT_ESTABLISHED]
    damage = [damaged(line) for line in found.damage]
    return Findings(
        question=f"Does {found.b} need more epochs or seconds to the target than {found.a}?",
        protocol="each study's own",
        target=f"validation {found.target}",
        read_beside=None,
        verdict=[_overall_line(found), *[_arm_line(arm) for arm in decided], _margin_line(found)],
        not_established=[f"{_arm_line(arm)}{words.seeds_needed(arm.epochs)}" for arm in undecided],
        aims_at_target=False,
        arms=[],
        comparisons=[],
        fits=[],
        sections=[_ratios(found), _changes(found)],
        curves=[],
        fixed_budgets=[],
        by_target=[],
        reach=[],
        caveats=[*damage, *_caveats(found)],
        damage=damage,
        metric=found.target.metric,
        target_value=found.target.value,
        outcomes={},
        planned=0,
        settings=[],
        data=fingerprint(repr(asdict(found)), 16),
        trials=0,
        provenance={"experiment": "comparison", "name": f"{found.b} against {found.a}"},
    )


def _overall_line(found: StudyComparison) -> str:
    if found.overall.is_everything:
        return f"No overall ratio of {found.b} over {found.a}: {found.overall.method}."
    size = words.bounded(found.overall_ratio, *found.overall_bounds)
    return f"Overall {found.b} needs {size} times the epochs of {found.a} ({words.interval(found.overall)})."


def _margin_line(found: StudyComparison) -> str:
    if found.slower:
        return f"Established to be slower by more than {found.margin:.3g} of A: {', '.join(found.slower)}."
    return f"Nothing is established to be slower by more than {found.margin:.3g} of A."


def _arm_line(arm: ArmChange) -> str:
    epochs = arm.epochs
    known = f"{words.interval(epochs.interval)}, {words.p_holm(epochs.p_adjusted)}"
    return f"{arm.label}: ratio of epochs {words.ratio_of(epochs)} ({known}): {epochs.verdict}"


def _ratios(found: StudyComparison) -> Section:
    rows = [
        [
            arm.label,
            arm.epochs.n_a,
            arm.epochs.n_b,
            _known(arm.epochs.ratio),
            arm.epochs.interval.low,
            arm.epochs.interval.high,
            arm.epochs.interval.label,
            str(arm.epochs.verdict),
            _known(arm.p_slower),
            _known(arm.seconds_ratio),
            arm.seconds_interval.low,
            arm.seconds_interval.high,
        ]
        for arm in found.arms
    ]
    columns = [
        "arm", "n_a", "n_b", "epochs_ratio", "epochs_low", "epochs_high", "interval", "verdict", "p_slower",
        "seconds_ratio", "seconds_low", "seconds_high",
    ]  # fmt: skip
    sentences = [
        f"Ratios are {found.b} over {found.a}; p_slower is one-sided, of at most {1 + found.margin:.3g} times the "
        "epochs, after Holm's correction over the arms and the overall ratio; below 2.5 % it is established."
    ]
    return Section("Ratios, arm by arm", sentences, [_plot(found)], [Table("ratios", columns, rows)])


def _plot(found: StudyComparison) -> Plot:
    """Ratios with intervals over TBS, a series a rule; what has no finite ratio is in the table only."""
    series = []
    for rule in dict.fromkeys(_rule(arm) for arm in found.arms):
        arms = [arm for arm in found.arms if _rule(arm) == rule and 0 < arm.epochs.ratio < math.inf]
        if arms:
            low = [max(arm.epochs.interval.low, arm.epochs.ratio / 100) for arm in arms]
            high = [min(arm.epochs.interval.high, arm.epochs.ratio * 100) for arm in arms]
            sizes = [float(arm.total_batch_size) for arm in arms]
            kinds = [arm.epochs.interval.label for arm in arms]
            series.append(Series(rule, sizes, [a.epochs.ratio for a in arms], low=low, high=high, interval=kinds))
    said = "; ".join(f"{arm.label} {words.ratio_of(arm.epochs)}" for arm in found.arms)
    alt = f"Epochs to target of {found.b} over those of {found.a}: {said}."
    marks = [Reference("equal", 1.0, "y")]
    title = f"Epochs to target, {found.b} over {found.a}"
    return Plot("ratio", title, alt, words.TOTAL_BATCH_SIZE, "ratio of epochs to target", series, marks, 2, 2)


def _rule(arm: ArmChange) -> str:
    return arm.label.replace(f" TBS {arm.total_batch_size}", "")


def _changes(found: StudyComparison) -> Section:
    rows = [[change.key, _text(change.a), _text(change.b)] for change in found.changes]
    said = f"{len(rows)} values differ." if rows else "Configuration, code, data and versions are the same."
    return Section(
        "What is set differently", [said], tables=[Table("changes", ["key", "a", "b"], rows)] if rows else []
    )


def _text(value: object) -> str:
    return "-" if value is None else str(value)


def _caveats(found: StudyComparison) -> list[str]:
    lines = []
    if found.only_a:
        lines.append(f"only in {found.a}: {', '.join(found.only_a)}")
    if found.only_b:
        lines.append(f"only in {found.b}: {', '.join(found.only_b)}")
    if any(not math.isnan(arm.seconds_ratio) for arm in found.arms):
        lines.append(
            "seconds are updates times seconds per update; two machines' seconds say nothing of the code alone"
        )
    return lines


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
