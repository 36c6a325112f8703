"""Which LR of a wide grid trains fastest at each total batch size, and which LRs train at all?

Design: the same LRs (powers of ten with points in between) at every total batch size and seed, each trial until its
target is confirmed or its budget ends. Equal resolution in log LR for every TBS, so that no TBS is better tuned than
another. The best LR and its epochs come from the same seeds, which flatters it: `tuned` repeats on fresh ones.
"""

import math
from collections.abc import Sequence

from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.plan.design import Design
from harness.plan.errors import UserError
from harness.plan.trial import Arm, Trial
from harness.questions import lr_grid


class LrGrid:
    """A grid of LR x total batch size x seed."""

    def __init__(self, design: Design, total_batch_sizes: Sequence[int], lrs: Sequence[float]) -> None:
        if not total_batch_sizes:
            raise UserError("question.total_batch_sizes is empty: give at least one, e.g. [16,128,512]")
        if len(set(lrs)) < 3:
            raise UserError(f"question.lrs needs at least 3 values to have an inside, not {list(lrs)}")
        if not all(math.isfinite(lr) and lr > 0 for lr in lrs):
            raise UserError(f"question.lrs must be numbers > 0, not {list(lrs)}")
        self.design = design
        design.workload.check_batch_sizes(total_batch_sizes)
        self.arms = [self._arm(tbs, lr) for tbs in sorted(set(total_batch_sizes)) for lr in sorted(set(lrs))]

    def _arm(self, total_batch_size: int, lr: float) -> Arm:
        return self.design.workload.arm_at_lr(lr, total_batch_size, label="grid", variant={"lr": lr})

    def trials(self, records: Records) -> list[Trial]:
        return [Trial(arm, seed) for arm in self.arms for seed in self.design.seeds]

    def conclude(self, records: Records) -> Findings:
        return lr_grid.conclude(self.design, self.arms, records)
