"""How much of the epochs to target is the luck of the split: both variance components, in words and numbers."""

import math
from collections.abc import Mapping, Sequence

from harness.analyse.sections import Plot, Section, Series, Table
from harness.statistics.variance import Components, components

Splits = Mapping[tuple[str, int], Sequence[Sequence[float]]]  # (rule, TBS) -> epochs by seed, a list a split


def split_section(title: str, groups: Splits) -> Section:
    """What varies between seeds on one split, and what between splits; `groups` with inf for a miss."""
    found = {key: components(splits) for key, splits in groups.items()}
    sentences = [_line(rule, tbs, one) for (rule, tbs), one in found.items()]
    table = Table(
        "split_check",
        ["scaling_rule", "total_batch_size", "splits", "n", "sd_between_seeds", "sd_between_splits", "p_same_splits"],
        [
            [rule, tbs, *((one.groups, one.n, one.sd_within, one.sd_between, one.p) if one else (None,) * 5)]
            for (rule, tbs), one in found.items()
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


def _line(rule: str, total_batch_size: int, one: Components | None) -> str:
    where = f"TBS {total_batch_size} under {rule} scaling"
    if one is None:
        return f"{where}: a trial missed its target or is missing, so the spread is not known."
    if math.isnan(one.p):
        tell = "the seeds of a split all cross at one evaluation, only finer ones can tell whether the splits differ"
    else:
        found = "the splits differ" if one.p < 0.05 else "no difference between splits is established"
        tell = f"{found} (F test, p = {one.p:.2g})"
    return (
        f"{where}: epochs to target vary by {one.sd_within:.0%} between seeds and by {one.sd_between:.0%} between "
        f"splits (SD of log; {one.groups} splits, {one.n} trials): {tell}."
    )
