"""Which LR, total batch size and momentum together reach the target with the least data, or in the fewest updates?

Design: points of the joint space (LR log, batch sizes from a list, momentum log in 1 - m) by grid, random, scrambled
Sobol (point i never changes when more are asked for) or Bayesian search (Optuna's TPE in rounds of fixed size, replayed
from the records); each over tuning seeds, scored by the median cost to target, misses at twice the budget. The best
point is run again on fresh seeds beside the workload's own LR and momentum at that batch size (P16). Default LR
ranges are those of published runs (conf/optimizer); default momenta 0.8 to 0.99: Smith 2018 (1803.09820), section 4.3.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.plan.design import Design, check_tuning_seeds
from harness.plan.errors import UserError
from harness.plan.racing import complete_median
from harness.plan.samplers import PUBLISHED_LRS, SAMPLERS, Point, Space, bayesian, grid, random, sobol
from harness.plan.trial import Arm, Trial
from harness.questions import lr_batch_momentum
from harness.questions.lr_batch_momentum import Scored

COSTS = ("examples", "updates")
MISS = 2.0  # budgets: what a point that misses in half of its seeds is scored as


class LrBatchMomentum:
    """A joint search by one of four samplers."""

    def __init__(
        self,
        design: Design,
        total_batch_sizes: Sequence[int],
        tuning_seeds: Sequence[int],
        sampler: str = "sobol",
        points: int = 16,
        lr_range: Sequence[float] | None = None,
        momentum_range: Sequence[float] | None = None,
        minimise: str = "examples",
        sampler_seed: int = 0,
        batch: int = 4,
        lr_levels: int = 5,
        momentum_levels: int = 3,
    ) -> None:
        if sampler not in SAMPLERS:
            raise UserError(f"question.sampler must be one of {', '.join(SAMPLERS)}, not {sampler!r}")
        if minimise not in COSTS:
            raise UserError(f"question.minimise must be one of {', '.join(COSTS)}, not {minimise!r}")
        for name, count in (("points", points), ("batch", batch), ("lr_levels", lr_levels)):
            if count < 1:
                raise UserError(f"question.{name} must be >= 1, not {count}")
        if momentum_levels < 1 or sampler_seed < 0:
            raise UserError("question.momentum_levels must be >= 1 and question.sampler_seed >= 0")
        check_tuning_seeds(tuning_seeds, design.seeds)
        optimizer = design.workload.optimizer
        lrs = lr_range or PUBLISHED_LRS.get(optimizer["_target_"])
        if lrs is None or len(lrs) != 2:
            raise UserError(
                f"question.lr_range must be [low, high], not {lr_range and list(lr_range)}"
                + ("" if lr_range else f": no published range is known for {optimizer['_target_']}")
            )
        has_momentum = "betas" in optimizer or bool(optimizer.get("momentum"))
        if momentum_range is not None and (len(momentum_range) != 2 or not has_momentum):
            raise UserError(
                f"question.momentum_range must be [low, high], for an optimizer with a momentum or betas, "
                f"not {list(momentum_range)}"
            )
        momenta = (momentum_range or (0.8, 0.99)) if has_momentum else None
        sizes = tuple(sorted(set(total_batch_sizes)))
        self.space = Space((lrs[0], lrs[1]), sizes, None if momenta is None else (momenta[0], momenta[1]))
        design.workload.check_batch_sizes(sizes)
        self.design, self.tuning_seeds, self.minimise = design, tuple(tuning_seeds), minimise
        self.sampler, self.points, self.sampler_seed, self.batch = sampler, points, sampler_seed, batch
        self.levels = (lr_levels, momentum_levels)

    @property
    def follows(self) -> str:
        """What the first round may lead to."""
        rounds = f"{self.points} points in rounds of {self.batch}; then " if self.sampler == "bayesian" else ""
        return (
            f"{rounds}the best point and the workload's own LR and momentum at its TBS on {len(self.design.seeds)} "
            f"reporting seeds (these trials: tuning seeds {', '.join(map(str, self.tuning_seeds))})"
        )

    def asked(self, records: Records) -> tuple[list[Point], bool]:
        """The points so far, and whether all are decided."""
        if self.sampler == "bayesian":
            return bayesian(
                self.space, self.points, self.sampler_seed, lambda point: self._score(point, records), self.batch
            )
        if self.sampler == "grid":
            points = grid(self.space, *self.levels)
        else:
            draw = random if self.sampler == "random" else sobol
            points = draw(self.space, self.points, self.sampler_seed)
        return points, all(self._score(point, records) is not None for point in points)

    def trials(self, records: Records) -> list[Trial]:
        points, _ = self.asked(records)
        tuning = [Trial(self._arm(point), seed) for point in points for seed in self.tuning_seeds]
        return tuning + [Trial(arm, seed) for arm in self._reported(records) for seed in self.design.seeds]

    def conclude(self, records: Records) -> Findings:
        points, is_over = self.asked(records)
        return lr_batch_momentum.conclude(
            self.design,
            [Scored(point, self._median(point, records)) for point in points],
            self._reported(records) or [self._own(self.space.total_batch_sizes[0])],
            records,
            minimise=self.minimise,
            tuning_seeds=len(self.tuning_seeds),
            is_over=is_over,
        )

    def _median(self, point: Point, records: Records) -> float | None:
        """Median examples to target over the tuning seeds; None while a trial is open."""
        arm = self._arm(point)
        return complete_median([records.standing(Trial(arm, seed)) for seed in self.tuning_seeds])

    def _score(self, point: Point, records: Records) -> float | None:
        median = self._median(point, records)
        if median is None:
            return None
        if median == math.inf:
            median = MISS * self.design.workload.budget_examples
        return median if self.minimise == "examples" else median / point.total_batch_size

    def _best(self, records: Records) -> Point | None:
        points, is_over = self.asked(records)
        if not is_over or all(self._median(point, records) == math.inf for point in points):
            return None
        return min(points, key=lambda point: self._score(point, records) or math.inf)

    def _reported(self, records: Records) -> list[Arm]:
        best = self._best(records)
        return [] if best is None else [self._arm(best), self._own(best.total_batch_size)]

    def _own(self, total_batch_size: int) -> Arm:
        """The workload's own LR by its first rule, and its own momentum."""
        return self.design.workload.arm(self.design.rules[0], total_batch_size)

    def _arm(self, point: Point) -> Arm:
        workload, variant = self.design.workload, {"lr": point.lr}
        if point.momentum is not None:
            workload = replace(workload, optimizer=_with_momentum(workload.optimizer, point.momentum))
            variant["momentum"] = point.momentum
        return workload.arm_at_lr(point.lr, point.total_batch_size, label=self.sampler, variant=variant)


def _with_momentum(optimizer: Mapping[str, Any], momentum: float) -> dict[str, Any]:
    """The optimizer with another momentum, or beta1 where it has betas."""
    if "betas" in optimizer:
        return {**optimizer, "betas": [momentum, *optimizer["betas"][1:]]}
    return {**optimizer, "momentum": momentum}
