"""Does the ranking of the LR rules survive another base LR?

Design: every rule at every total batch size with the workload's base LR times each factor (P16 asks for 1/2 and 2),
over the same seeds, each trial until its target. A verdict that holds at one base LR only is a verdict on that LR.
"""

import math
from collections.abc import Sequence

from harness.analyse.arms import ArmFinding, arm_findings
from harness.analyse.conclude import findings
from harness.analyse.findings import Findings
from harness.analyse.ranking import ranking_line, ranking_table, tiers
from harness.analyse.results import Records
from harness.analyse.sections import Plot, Section, Series
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
    orders: dict[int, dict[float, list[list[str]]]] = {}
    for (tbs, lr), here in groups.items():
        orders.setdefault(tbs, {})[lr] = tiers(here, resolution)
    sentences = [ranking_line(tbs, orders[tbs]) for tbs in sorted(orders)]
    table = ranking_table("base_lr_sensitivity", rows)
    return Section("The ranking of the rules at each base LR", sentences or [_NOTHING], _plots(groups), [table])


_NOTHING = "No trial has finished: nothing can be said yet."


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
