"""What do equal seconds, equal epochs and equal updates buy at each total batch size?

Design: the protocol of Smith et al. 2017 (1711.00489) beside its two neighbours. One budget is fixed at the smallest
total batch size, `epochs_at_smallest` epochs of it; every other TBS then gets the same seconds (its updates counted by
the timing pass, each alone on the machine), the same epochs, or the same updates. Trials run to the largest of these
budgets, or to the workload's, under a schedule without an end, so that one journal answers all three; a budget that
exceeds what was run has no number. Epochs in a time budget say what fits, not what a target needs (P18).
"""

from collections.abc import Sequence
from dataclasses import replace

from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.plan.design import Design
from harness.plan.duration import Duration
from harness.plan.errors import UserError
from harness.plan.scaling import Rule
from harness.plan.trial import Arm, Trial
from harness.questions import fixed_budget


class FixedBudget:
    """A grid of total batch size x LR rule x seed, each trial to the end of its budget."""

    def __init__(self, design: Design, total_batch_sizes: Sequence[int], epochs_at_smallest: float) -> None:
        if len(set(total_batch_sizes)) < 2:
            raise UserError(
                f"question.total_batch_sizes must name two or more to share a budget, not {list(total_batch_sizes)}"
            )
        if not 0 < epochs_at_smallest < float("inf"):
            raise UserError(f"question.epochs_at_smallest must be a number > 0, not {epochs_at_smallest}")
        if design.workload.schedule.get("horizon", ()) != ():
            raise UserError(
                f"fixed_budget reads one run at several budgets, which schedule {design.workload.schedule['_target_']} "
                "with its end does not allow: use schedule=constant"
            )
        self.design = replace(design, workload=replace(design.workload, stop_at_target=False))
        self.total_batch_sizes = sorted(set(total_batch_sizes))
        design.workload.check_batch_sizes(self.total_batch_sizes)
        self.base_examples = epochs_at_smallest * design.workload.train_examples
        if self.base_examples > design.workload.budget_examples:
            raise UserError(
                f"question.epochs_at_smallest={epochs_at_smallest:g} exceeds the workload's budget: use less, or a "
                f"larger workload.budget than {design.workload.budget.amount:g} {design.workload.budget.unit}"
            )
        self.arms = [self._arm(rule, tbs) for tbs in self.total_batch_sizes for rule in design.rules]

    def _arm(self, rule: Rule, total_batch_size: int) -> Arm:
        """As long as equal updates take at this TBS, and no longer than the workload's budget."""
        workload = self.design.workload
        wanted = self.base_examples * total_batch_size / self.total_batch_sizes[0]
        budget = Duration(min(wanted, workload.budget_examples), "examples")
        return replace(workload, budget=budget).arm(rule, total_batch_size)

    def trials(self, records: Records) -> list[Trial]:
        return [Trial(arm, seed) for arm in self.arms for seed in self.design.seeds]

    def conclude(self, records: Records) -> Findings:
        return fixed_budget.conclude(self.design, self.arms, records, self.base_examples)
