"""Which choice matters on your workload? One factor at a time, everything else as the workload says.

Design: every choice at every total batch size, under every LR rule of `lr_scaling`, over the same seeds. A choice is a
few values of the workload written as conf writes them ({batch_norm: {span_examples: 32}}, {base_lr: 0.1}). `Ablation`
compares what the target needs, each trial until its target is confirmed; `EqualBudget` compares the metric at the end
of the workload's budget, which is what schedules of one length are for. Every comparison is exploratory and corrected
by Holm's method (P16).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.plan.changes import with_changes
from harness.plan.design import Design
from harness.plan.errors import UserError
from harness.plan.scaling import Rule
from harness.plan.trial import Arm, Trial
from harness.questions import ablation


class Ablation:
    """A grid of choice x total batch size x LR rule x seed, each trial until its target."""

    def __init__(
        self,
        design: Design,
        asks: str,
        total_batch_sizes: Sequence[int],
        baseline: str,
        choices: Mapping[str, Mapping[str, Any] | None],
    ) -> None:
        if not total_batch_sizes:
            raise UserError("question.total_batch_sizes is empty: give at least one, e.g. [16,128,512]")
        if not isinstance(choices, Mapping) or len(choices) < 2:
            raise UserError(
                "question.choices needs two or more, like "
                "{fixed: {co_scaling: {momentum: fixed}}, half_life: {co_scaling: {momentum: half_life}}}"
            )
        self.asks = asks
        self.design = design
        if baseline not in choices:
            raise UserError(f"question.baseline={baseline!r} is none of question.choices: {', '.join(sorted(choices))}")
        names = [baseline, *sorted(set(choices) - {baseline})]  # a study keeps its choices without their order
        self.choices = {name: with_changes(design.workload, choices[name] or {}) for name in names}
        self.arms = [
            self._arm(rule, tbs, name)
            for tbs in sorted(set(total_batch_sizes))
            for rule in design.rules
            for name in self.choices
        ]

    def _arm(self, rule: Rule, total_batch_size: int, choice: str) -> Arm:
        workload = self.choices[choice]
        return workload.arm(rule, total_batch_size, variant={"choice": choice})

    def trials(self, records: Records) -> list[Trial]:
        return [Trial(arm, seed) for arm in self.arms for seed in self.design.seeds]

    def conclude(self, records: Records) -> Findings:
        return ablation.conclude_at_target(self.asks, self.design, self.choices.values(), self.arms, records)


class EqualBudget(Ablation):
    """The same grid, each trial to the end of the workload's budget."""

    def __init__(
        self,
        design: Design,
        asks: str,
        total_batch_sizes: Sequence[int],
        baseline: str,
        choices: Mapping[str, Mapping[str, Any] | None],
    ) -> None:
        workload = replace(design.workload, stop_at_target=False)
        super().__init__(replace(design, workload=workload), asks, total_batch_sizes, baseline, choices)

    def conclude(self, records: Records) -> Findings:
        return ablation.conclude_after_budget(self.asks, self.design, self.choices.values(), self.arms, records)
