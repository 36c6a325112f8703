"""The LR rules in order of what they need, and whether that order is the same at every base LR (P16)."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise

from harness.analyse.arms import ArmFinding, arm_findings
from harness.analyse.conclude import findings
from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.analyse.sections import Plot, Section, Series, Table
from harness.plan.design import Design
from harness.plan.trial import Arm
from harness.statistics import words

ALL_TIED = "all tied"


def conclude(design: Design, arms: Sequence[Arm], records: Records) -> Findings:
    """Whether the rules keep their order at every base LR."""
    measured = arm_findings(design, arms, records)
    section = ranking_section(measured[0], design.workload.evaluate_every_examples)
    question = "Does the ranking of the LR rules survive another base LR?"
    return findings(question, design, arms, records, measured, verdict=section.sentences, sections=[section])


def ranking_section(rows: Sequence[ArmFinding], resolution: int) -> Section:
    """The rules in order of their medians at every TBS and base LR, rules within one evaluation interval tied."""
    groups: dict[tuple[int, float], list[ArmFinding]] = {}
    for row in rows:
        if row.n:
            groups.setdefault((row.total_batch_size, row.base_lr), []).append(row)
    orders: dict[int, dict[float, list[list[str]]]] = {}
    for (tbs, lr), here in groups.items():
        orders.setdefault(tbs, {})[lr] = tiers(here, resolution)
    sentences = [ranking_line(tbs, orders[tbs]) for tbs in sorted(orders)]
    table = ranking_table("base_lr_sensitivity", rows)
    return Section(
        "The ranking of the rules at each base LR", sentences or [words.NOTHING_YET], _plots(groups), [table]
    )


def tiers(rows: Sequence[ArmFinding], resolution: int) -> list[list[str]]:
    """Rules by medians, fewest epochs first; tied within `resolution` examples of the one before."""
    ordered = sorted(rows, key=lambda row: row.place.examples)
    ranked = [[ordered[0].scaling_rule]]
    for before, row in pairwise(ordered):
        if row.place.examples > before.place.examples + resolution:
            ranked.append([])
        ranked[-1].append(row.scaling_rule)
    return [sorted(tier) for tier in ranked]


def in_order(ranked: Sequence[Sequence[str]]) -> str:
    """`linear < none = sqrt`: fewer epochs first."""
    return " < ".join(" = ".join(tier) for tier in ranked) if len(ranked) > 1 else ALL_TIED


def changes(orders: Mapping[float, Sequence[Sequence[str]]]) -> list[tuple[str, str]]:
    """Pairs of rules of which each is ahead at some base LR; a tie contradicts nothing."""
    ahead = {
        (first, second)
        for ranked in orders.values()
        for sooner, later in combinations(ranked, 2)
        for first in sooner
        for second in later
    }
    return sorted((first, second) for first, second in ahead if first < second and (second, first) in ahead)


def ranking_line(total_batch_size: int, orders: Mapping[float, Sequence[Sequence[str]]]) -> str:
    """What the orders at several base LRs come to at one TBS."""
    order_at = {lr: in_order(ranked) for lr, ranked in orders.items()}
    distinct = set(order_at.values())
    if distinct == {ALL_TIED}:
        return f"TBS {total_batch_size}: the rules are not distinguished at any base LR."
    if len(distinct) == 1:
        lrs = ", ".join(f"{lr:.4g}" for lr in order_at)
        return f"TBS {total_batch_size}: the rules rank {distinct.pop()} at every base LR ({lrs})."
    each = "; ".join(f"base LR {lr:.4g}: {order}" for lr, order in order_at.items())
    return f"TBS {total_batch_size}: the ranking by medians depends on the base LR. {each}."


def ranking_table(name: str, rows: Sequence[ArmFinding]) -> Table:
    """Epochs to target of every rule at every base LR."""
    epochs = ("epochs_to_target", "low", "high", "interval")
    return Table(
        name,
        ["total_batch_size", "base_lr", "scaling_rule", "lr", *epochs, "reached", "n"],
        [
            [
                row.total_batch_size, row.base_lr, row.scaling_rule, row.peak_lr, row.epochs,
                row.place.low / row.train_examples, row.place.high / row.train_examples, row.place.interval,
                row.outcomes.reached, row.n,
            ]
            for row in rows
        ],
    )  # fmt: skip


def _ends(rows: Sequence[ArmFinding]) -> str:
    """The fewest and the most epochs of one rule: `4.5 to 23`, or `4.5 to more than 40`."""
    epochs = sorted((row.epochs, row.place.at_least / row.train_examples) for row in rows)
    few, many = (
        words.number(e) if math.isfinite(e) else words.more_than(least) for e, least in (epochs[0], epochs[-1])
    )
    return few if few == many else f"{few} to {many}"


def _plots(groups: dict[tuple[int, float], list[ArmFinding]]) -> list[Plot]:
    plots = []
    for tbs in sorted({tbs for tbs, _ in groups}):
        lines: dict[str, list[ArmFinding]] = {}
        for (size, _), rows in groups.items():
            for row in rows if size == tbs else ():
                lines.setdefault(row.scaling_rule, []).append(row)
        series = [
            Series(
                rule,
                [row.base_lr for row in line],
                [row.epochs for row in line],
                [row.place.low / row.train_examples for row in line],
                [row.place.high / row.train_examples for row in line],
                kind="line",
                interval=[row.place.interval for row in line],
            )
            for rule, line in lines.items()
        ]
        ends = "; ".join(f"{rule} {_ends(line)}" for rule, line in lines.items())
        title = f"Epochs to target over the base LR, TBS {tbs}"
        alt = f"TBS {tbs}, epochs over the base LRs: {ends}."
        plots.append(
            Plot(f"base_lr_tbs_{tbs}", title, alt, "base LR", words.EPOCHS_TO_TARGET, series, x_log=2, y_log=2)
        )
    return plots
