"""Does the ranking of the LR rules survive another base LR?

Design: every rule at every total batch size with the workload's base LR times each factor (rule 16 asks for 1/2 and 2),
over the same seeds, each trial until its target. A verdict that holds at one base LR only is a verdict on that LR.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from harness.analyse.arms import ArmFinding, arm_findings
from harness.analyse.conclude import findings
from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.analyse.sections import Plot, Section, Series, Table
from harness.plan.design import Design
from harness.plan.errors import UserError
from harness.plan.trial import Arm, Trial


class BaseLrSensitivity:
    """A grid of factor on the base LR x total batch size x LR rule x seed."""

    def __init__(self, design: Design, total_batch_sizes: Sequence[int], factors: Sequence[float]) -> None:
        if not total_batch_sizes:
            raise UserError("question.total_batch_sizes is empty: give at least one, e.g. [16,128,512]")
        if len(set(factors)) < 2 or not all(0 < factor < math.inf for factor in factors):
            raise UserError(f"question.factors must be 2 or more numbers > 0, like [1,0.5,2], not {list(factors)}")
        if len(design.scaling_rules) < 2:
            raise UserError("base_lr_sensitivity ranks LR rules: name two or more, e.g. lr_scaling=compare")
        self.design = design
        design.workload.check_batch_sizes(total_batch_sizes)
        self.arms = [
            self._arm(rule, tbs, factor)
            for tbs in sorted(set(total_batch_sizes))
            for factor in sorted(set(factors))
            for rule in design.scaling_rules
        ]

    def _arm(self, rule: str, total_batch_size: int, factor: float) -> Arm:
        base_lr = self.design.workload.base_lr * factor
        variant = {"base_lr_factor": factor}
        return self.design.workload.arm(
            rule, total_batch_size, base_lr=base_lr, power=self.design.power, variant=variant
        )

    def trials(self, records: Records) -> list[Trial]:
        return [Trial(arm, seed) for arm in self.arms for seed in self.design.seeds]

    def conclude(self, records: Records) -> Findings:
        measured = arm_findings(self.design, self.arms, records)
        section = ranking_section(measured[0], self.design.workload.evaluate_every_examples)
        question = "Does the ranking of the LR rules survive another base LR?"
        verdict = section.sentences
        return findings(question, self.design, self.arms, records, measured, verdict=verdict, sections=[section])


def ranking_section(rows: Sequence[ArmFinding], resolution: int) -> Section:
    """The rules in order of their medians at every TBS and base LR, rules within one evaluation interval tied."""
    groups: dict[tuple[int, float], list[ArmFinding]] = {}
    for row in rows:
        if row.n:
            groups.setdefault((row.total_batch_size, row.base_lr), []).append(row)
    ranked = {key: _ranking(here, resolution) for key, here in groups.items()}
    sentences = []
    for tbs in sorted({tbs for tbs, _ in ranked}):
        orders = {lr: order for (size, lr), order in ranked.items() if size == tbs}
        if set(orders.values()) == {_TIED}:
            sentences.append(f"TBS {tbs}: the rules are not told apart at any base LR.")
        elif len(set(orders.values())) == 1:
            order = next(iter(orders.values()))
            sentences.append(f"TBS {tbs}: the rules rank {order} at every base LR ({_lrs(orders)}).")
        else:
            said = "; ".join(f"base LR {lr:.4g}: {order}" for lr, order in orders.items())
            sentences.append(f"TBS {tbs}: the ranking by medians depends on the base LR. {said}.")
    table = Table(
        "base_lr_sensitivity",
        ["total_batch_size", "base_lr", "scaling_rule", "lr", "epochs_to_target", "low", "high", "reached", "n"],
        [
            [
                row.total_batch_size, row.base_lr, row.scaling_rule, row.peak_lr, row.epochs,
                row.place.low / row.train_examples, row.place.high / row.train_examples, row.outcomes.reached, row.n,
            ]
            for row in rows
        ],
    )  # fmt: skip
    return Section("The ranking of the rules at each base LR", sentences or [_NOTHING], _plots(groups), [table])


_TIED = "all tied"
_NOTHING = "No trial has finished: nothing can be said yet."


def _ranking(rows: Sequence[ArmFinding], resolution: int) -> str:
    """`linear < none = sqrt`: fewer epochs first, by medians; tied within one evaluation interval of the one before."""
    ordered = sorted(rows, key=lambda row: row.place.examples)
    tiers = [[ordered[0].scaling_rule]]
    for before, row in pairwise(ordered):
        if row.place.examples > before.place.examples + resolution:
            tiers.append([])
        tiers[-1].append(row.scaling_rule)
    return " < ".join(" = ".join(sorted(tier)) for tier in tiers) if len(tiers) > 1 else _TIED


def _lrs(orders: dict[float, str]) -> str:
    return ", ".join(f"{lr:.4g}" for lr in orders)


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
            )
            for rule, line in lines.items()
        ]
        ends = ", ".join(f"{s.label} {min(s.y):.3g} to {max(s.y):.3g} epochs" for s in series)
        title, alt = f"Epochs to target over the base LR, TBS {tbs}", f"TBS {tbs}, over the base LRs: {ends}."
        plots.append(Plot(f"base_lr_tbs_{tbs}", title, alt, "base LR", "epochs to target", series, x_log=2, y_log=2))
    return plots
