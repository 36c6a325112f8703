"""How far can the LR, or the momentum, rise at each total batch size before training suffers?

Design: one short run a total batch size and seed of `updates` updates, along which the LR (Smith 2015, 1506.01186,
section 3.3) or the momentum (Smith 2018, 1803.09820, section 4.3) rises from a low to a high value; the validation loss
of the raw weights is read every few updates. Equal updates, not examples, at every TBS: stability is a property of the
update. No warm-up, no weight average, no target.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.plan.design import Design
from harness.plan.duration import Duration
from harness.plan.errors import UserError
from harness.plan.settings import Averaging
from harness.plan.trial import Arm, Trial
from harness.questions import range_test
from harness.questions.range_test import LR, MOMENTUM, RisingValue

RAMPS = ("exponential", "linear")


class RangeTest:
    """A short run a total batch size and seed along which `rising` rises; `evaluations` evenly spaced in updates."""

    def __init__(
        self,
        design: Design,
        rising: RisingValue,
        schedule: Mapping[str, Any],
        lr: float,  # the peak LR of every run
        total_batch_sizes: Sequence[int],
        updates: int,
        evaluations: int,
    ) -> None:
        if not total_batch_sizes:
            raise UserError("question.total_batch_sizes is empty: give at least one, e.g. [16,128,512]")
        if not 10 <= evaluations <= updates or updates % evaluations:
            raise UserError(
                f"question.evaluations must be at least 10 and divide question.updates={updates}, not {evaluations}: "
                f"use e.g. {next(n for n in range(10, 10 + updates) if updates % n == 0 or n >= updates)}"
            )
        self.rising, self.lr = rising, lr
        self.total_batch_sizes = sorted(set(total_batch_sizes))
        self.updates, self.every = updates, updates // evaluations
        workload = replace(
            design.workload, schedule=schedule, averaging=Averaging(), stop_at_target=False, read_beside=None
        )
        self.design = replace(design, workload=workload)
        self.arms = [self._arm(tbs) for tbs in self.total_batch_sizes]

    def _arm(self, total_batch_size: int) -> Arm:
        """The user's workload for so many updates at this TBS."""
        budget = Duration(self.updates * total_batch_size, "examples")
        every = self.every * total_batch_size
        workload = replace(self.design.workload, budget=budget, evaluate_every_examples=every)
        return workload.arm_at_lr(self.lr, total_batch_size, label="range test")

    def trials(self, records: Records) -> list[Trial]:
        return [Trial(arm, seed) for arm in self.arms for seed in self.design.seeds]


class LrRangeTest(RangeTest):
    """The LR rises from the first to the second value of `lr_range`."""

    def __init__(
        self,
        design: Design,
        total_batch_sizes: Sequence[int],
        lr_range: Sequence[float],
        ramp: str,
        updates: int,
        evaluations: int,
    ) -> None:
        if len(lr_range) != 2 or not all(map(math.isfinite, lr_range)) or not 0 < lr_range[0] < lr_range[1]:
            raise UserError(f"question.lr_range must be [low, high] with 0 < low < high, not {list(lr_range)}")
        if ramp not in RAMPS:
            raise UserError(f"question.ramp must be one of {', '.join(RAMPS)}, not {ramp!r}")
        low, high = lr_range
        schedule = {"_target_": "harness.plan.horizons.RangeTest", "horizon": None, "start": low / high, "ramp": ramp}
        self.grid_factor = (high / low) ** (1 / evaluations)
        super().__init__(design, LR, schedule, high, total_batch_sizes, updates, evaluations)

    def conclude(self, records: Records) -> Findings:
        return range_test.conclude(self.design, self.arms, records, LR, self.grid_factor)


class MomentumRangeTest(RangeTest):
    """The momentum rises from the first to the second value of `momentum_range`, at the LR of the scaling rule."""

    def __init__(
        self,
        design: Design,
        total_batch_sizes: Sequence[int],
        momentum_range: Sequence[float],
        updates: int,
        evaluations: int,
    ) -> None:
        if len(momentum_range) != 2 or not 0 <= momentum_range[0] < momentum_range[1] < 1:
            raise UserError(
                f"question.momentum_range must be [low, high] with 0 <= low < high < 1, not {list(momentum_range)}"
            )
        low, high = momentum_range
        schedule = {"_target_": "harness.plan.horizons.MomentumRangeTest", "horizon": None, "low": low, "high": high}
        super().__init__(design, MOMENTUM, schedule, design.workload.base_lr, total_batch_sizes, updates, evaluations)

    def conclude(self, records: Records) -> Findings:
        return range_test.conclude(self.design, self.arms, records, MOMENTUM)
