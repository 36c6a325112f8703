"""Does the ranking of the LR rules survive another base LR?

Design: every rule at every total batch size with the workload's base LR times each factor (P16 asks for 1/2 and 2),
over the same seeds, each trial until its target. A verdict that holds at one base LR only is a verdict on that LR.
"""

import math
from collections.abc import Sequence

from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.plan.design import Design
from harness.plan.errors import UserError
from harness.plan.scaling import Rule
from harness.plan.trial import Arm, Trial
from harness.questions import base_lr_sensitivity


class BaseLrSensitivity:
    """A grid of factor on the base LR x total batch size x LR rule x seed."""

    def __init__(self, design: Design, total_batch_sizes: Sequence[int], factors: Sequence[float]) -> None:
        if not total_batch_sizes:
            raise UserError("question.total_batch_sizes is empty: give at least one, e.g. [16,128,512]")
        if len(set(factors)) < 2 or not all(0 < factor < math.inf for factor in factors):
            raise UserError(f"question.factors must be 2 or more numbers > 0, like [1,0.5,2], not {list(factors)}")
        if len(design.rules) < 2:
            raise UserError("base_lr_sensitivity ranks LR rules: name two or more, e.g. lr_scaling=compare")
        self.design = design
        design.workload.check_batch_sizes(total_batch_sizes)
        self.arms = [
            self._arm(rule, tbs, factor)
            for tbs in sorted(set(total_batch_sizes))
            for factor in sorted(set(factors))
            for rule in design.rules
        ]

    def _arm(self, rule: Rule, total_batch_size: int, factor: float) -> Arm:
        base_lr = self.design.workload.base_lr * factor
        variant = {"base_lr_factor": factor}
        return self.design.workload.arm(rule, total_batch_size, base_lr=base_lr, variant=variant)

    def trials(self, records: Records) -> list[Trial]:
        return [Trial(arm, seed) for arm in self.arms for seed in self.design.seeds]

    def conclude(self, records: Records) -> Findings:
        return base_lr_sensitivity.conclude(self.design, self.arms, records)
