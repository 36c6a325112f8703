"""The LR rules in order of what they need, and whether that order is the same at every base LR (P16)."""

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise

from harness.analyse.arms import ArmFinding
from harness.analyse.sections import Table

ALL_TIED = "all tied"


def tiers(rows: Sequence[ArmFinding], resolution: int) -> list[list[str]]:
    """Rules by medians, fewest epochs first; tied within `resolution` examples of the one before."""
    ordered = sorted(rows, key=lambda row: row.place.examples)
    found = [[ordered[0].scaling_rule]]
    for before, row in pairwise(ordered):
        if row.place.examples > before.place.examples + resolution:
            found.append([])
        found[-1].append(row.scaling_rule)
    return [sorted(tier) for tier in found]


def written(found: Sequence[Sequence[str]]) -> str:
    """`linear < none = sqrt`: fewer epochs first."""
    return " < ".join(" = ".join(tier) for tier in found) if len(found) > 1 else ALL_TIED


def changes(orders: Mapping[float, Sequence[Sequence[str]]]) -> list[tuple[str, str]]:
    """Pairs of rules of which each is ahead at some base LR; a tie contradicts nothing."""
    ahead = {
        (first, second)
        for found in orders.values()
        for sooner, later in combinations(found, 2)
        for first in sooner
        for second in later
    }
    return sorted((first, second) for first, second in ahead if first < second and (second, first) in ahead)


def ranking_line(total_batch_size: int, orders: Mapping[float, Sequence[Sequence[str]]]) -> str:
    """What the orders at several base LRs come to at one TBS."""
    said = {lr: written(found) for lr, found in orders.items()}
    distinct = set(said.values())
    if distinct == {ALL_TIED}:
        return f"TBS {total_batch_size}: the rules are not told apart at any base LR."
    if len(distinct) == 1:
        lrs = ", ".join(f"{lr:.4g}" for lr in said)
        return f"TBS {total_batch_size}: the rules rank {distinct.pop()} at every base LR ({lrs})."
    each = "; ".join(f"base LR {lr:.4g}: {order}" for lr, order in said.items())
    return f"TBS {total_batch_size}: the ranking by medians depends on the base LR. {each}."


def ranking_table(name: str, rows: Sequence[ArmFinding]) -> Table:
    """Epochs to target of every rule at every base LR."""
    return Table(
        name,
        ["total_batch_size", "base_lr", "scaling_rule", "lr", "epochs_to_target", "low", "high", "reached", "n"],
        [
            [
                row.total_batch_size, row.base_lr, row.scaling_rule, row.peak_lr, row.epochs,
                row.place.low / row.train_examples, row.place.high / row.train_examples, row.outcomes.reached, row.n,
            ]
            for row in rows
        ],
    )  # fmt: skip
