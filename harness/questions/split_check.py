"""How much of the epochs to target is the luck of the split: both variance components, in words and numbers."""

import math
from collections.abc import Mapping, Sequence

from harness.analyse.arms import ArmFinding, arm_findings
from harness.analyse.conclude import findings
from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.analyse.sections import Plot, Section, Series, Table
from harness.plan.design import Design
from harness.plan.trial import Arm
from harness.statistics import words
from harness.statistics.variance import Components, components

Splits = Mapping[tuple[str, int], Sequence[Sequence[float]]]  # (rule, TBS) -> epochs by seed, a list a split


def conclude(design: Design, arms: Sequence[Arm], records: Records) -> Findings:
    """Both variance components at every rule and total batch size; an arm a split."""
    measured = arm_findings(design, arms, records)
    section = split_section("Between seeds and between splits", epochs_by_split(measured[0]))
    question = "How much of the epochs to target is the luck of the split?"
    return findings(question, design, arms, records, measured, verdict=section.sentences, sections=[section])


def epochs_by_split(rows: Sequence[ArmFinding]) -> Splits:
    """Misses at infinity; a row a split."""
    groups: dict[tuple[str, int], list[list[float]]] = {}
    for row in rows:
        epochs = [math.inf if epoch is None else epoch for epoch in row.epochs_by_seed]
        groups.setdefault((row.scaling_rule, row.total_batch_size), []).append(epochs)
    return groups


def split_section(title: str, groups: Splits) -> Section:
    """What varies between seeds on one split, and what between splits; `groups` with inf for a miss."""
    variances = {key: components(splits) for key, splits in groups.items()}
    sentences = [_line(rule, tbs, variance) for (rule, tbs), variance in variances.items()]
    table = Table(
        "split_check",
        ["scaling_rule", "total_batch_size", "splits", "n", "sd_between_seeds", "sd_between_splits", "p_same_splits"],
        [
            [rule, tbs, *((v.groups, v.n, v.sd_within, v.sd_between, v.p) if v else (None,) * 5)]
            for (rule, tbs), v in variances.items()
        ],
    )
    series = [
        Series(
            f"{rule}, TBS {tbs}",
            [float(i) for i, split in enumerate(splits) for _ in split],
            [epoch for split in splits for epoch in split],
        )
        for (rule, tbs), splits in groups.items()
    ]
    plot = Plot(
        "split_check", "Epochs to target on each split, a point a seed", " ".join(sentences),
        "split", "epochs to target", series, y_log=2,
    )  # fmt: skip
    return Section(title, sentences, [plot], [table])


def _line(rule: str, total_batch_size: int, variance: Components | None) -> str:
    where = f"TBS {total_batch_size} under {rule} scaling"
    if variance is None:
        return f"{where}: a trial missed its target or is missing, so the spread is not known."
    if math.isnan(variance.p):
        tell = "the seeds of a split all cross at one evaluation; only a finer grid can tell whether the splits differ"
    else:
        difference = "the splits differ" if variance.p < 0.05 else "no difference between splits is established"
        tell = f"{difference} (F test, {words.p_value(variance.p)})"
    within, between = words.percent(variance.sd_within), words.percent(variance.sd_between)
    return (
        f"{where}: epochs to target vary by {within} between seeds and by {between} between splits "
        f"(SD of log; {variance.groups} splits, {variance.n} trials): {tell}."
    )
