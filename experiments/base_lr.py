"""Which base LR reaches the target fastest at the base batch size?

Design: a log grid of LRs at the base batch size over tuning seeds that no report uses (P16); the winner is the LR
with the smallest median of epochs to target, misses at infinity. Its result is written by hand beside
workload.base_lr, so that a sweep never tunes itself silently.
"""

import math
from collections.abc import Sequence

from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.plan.design import Design
from harness.plan.errors import UserError
from harness.plan.trial import Arm, Trial
from harness.questions import base_lr


class BaseLr:
    """A grid of LRs at the workload's base batch size."""

    def __init__(self, design: Design, lrs: Sequence[float]) -> None:
        if len(lrs) < 3:
            raise UserError(f"question.lrs needs at least 3 values to have an inside, not {list(lrs)}")
        if not all(math.isfinite(lr) and lr > 0 for lr in lrs):
            raise UserError(f"question.lrs must be numbers > 0, not {list(lrs)}")
        self.design = design
        self.lrs = sorted(set(lrs))

    @property
    def arms(self) -> list[Arm]:
        workload = self.design.workload
        return [workload.arm_at_lr(lr, workload.base_batch_size, label="grid", variant={"lr": lr}) for lr in self.lrs]

    def trials(self, records: Records) -> list[Trial]:
        return [Trial(arm, seed) for arm in self.arms for seed in self.design.seeds]

    def conclude(self, records: Records) -> Findings:
        return base_lr.conclude(self.design, self.arms, records)
