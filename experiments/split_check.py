"""How much of a result is the luck of the split?

Design: every rule at the extreme total batch sizes on several splits of the same data, over the same seeds (P10: a
trial's seed never changes its split). Epochs to target then vary for two reasons, and both are estimated: between seeds
on one split, which more seeds average out, and between splits, which they do not.
"""

from collections.abc import Sequence
from dataclasses import replace

from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.plan.design import Design
from harness.plan.errors import UserError
from harness.plan.scaling import Rule
from harness.plan.trial import Arm, Trial
from harness.questions import split_check


class SplitCheck:
    """A grid of split seed x total batch size x LR rule x seed."""

    def __init__(self, design: Design, total_batch_sizes: Sequence[int], split_seeds: Sequence[int]) -> None:
        if not total_batch_sizes:
            raise UserError("question.total_batch_sizes is empty: give at least one, e.g. [16,512]")
        if len(set(split_seeds)) < 2 or min(split_seeds) < 0:
            raise UserError(f"question.split_seeds must be 2 or more integers >= 0, not {list(split_seeds)}")
        dataset = design.workload.dataset
        if "split_seed" not in dataset:
            raise UserError(
                f"split_check needs a data set with a split_seed, which {dataset['_target_']} does not write out"
            )
        self.design = design
        self.arms = [
            self._arm(rule, tbs, split)
            for tbs in sorted(set(total_batch_sizes))
            for rule in design.rules
            for split in sorted(set(split_seeds))
        ]

    def _arm(self, rule: Rule, total_batch_size: int, split: int) -> Arm:
        workload = replace(self.design.workload, dataset={**self.design.workload.dataset, "split_seed": split})
        return workload.arm(rule, total_batch_size, variant={"split": split})

    def trials(self, records: Records) -> list[Trial]:
        return [Trial(arm, seed) for arm in self.arms for seed in self.design.seeds]

    def conclude(self, records: Records) -> Findings:
        return split_check.conclude(self.design, self.arms, records)
