"""How many epochs, steps and seconds does each total batch size need to reach the target, under each LR rule?

Design: every rule at every total batch size over the same seeds (at k = 1 the rules are one trial, run once), each
trial until its target is confirmed or its budget ends. Protocol and statistics: DESIGN rules 4-6 and 13-16.
"""

from collections.abc import Sequence

from harness.analyse.conclude import rule_findings
from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.plan.design import Declared, Design
from harness.plan.errors import UserError
from harness.plan.trial import Arm, Trial


class TbsSweep:
    """A grid of total batch size x LR-scaling rule x seed."""

    def __init__(self, design: Design, total_batch_sizes: Sequence[int]) -> None:
        if not total_batch_sizes:
            raise UserError("question.total_batch_sizes is empty: give at least one, e.g. [16,64,256]")
        self.design = design
        self.total_batch_sizes = sorted(set(total_batch_sizes))
        design.workload.check_batch_sizes(self.total_batch_sizes)

    @property
    def arms(self) -> list[Arm]:
        rules, workload = self.design.scaling_rules, self.design.workload
        return [workload.arm(rule, tbs, power=self.design.power) for tbs in self.total_batch_sizes for rule in rules]

    @property
    def declared(self) -> Declared | None:
        """The primary comparison: the first rule against the last at the largest total batch size."""
        rules = self.design.scaling_rules
        return Declared((rules[0], rules[-1]), self.total_batch_sizes[-1]) if len(rules) > 1 else None

    def trials(self, records: Records) -> list[Trial]:
        return [Trial(arm, seed) for arm in self.arms for seed in self.design.seeds]

    def conclude(self, records: Records) -> Findings:
        return rule_findings(
            "How many epochs, steps and seconds does each total batch size need to reach the target?",
            self.design,
            self.arms,
            records,
            self.declared,
        )
