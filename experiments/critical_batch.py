"""How far may the batch grow, at several places in training, before a step's loss suffers?

Design: branched training (Merrill et al. 2025, 2505.23971, section 3). A trunk trains at the base batch size and LR and
keeps its state at a few places; from each, branches at k times the batch size with the LR of a scaling rule (k for SGD,
sqrt k for Adam) train on the very same next examples. The local critical batch size is the largest k that recovers:
its smoothed validation loss is within a tolerance of that of every smaller batch. Needs no sweep to the target: every
branch costs one window.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.plan.design import Design
from harness.plan.duration import Duration
from harness.plan.errors import UserError
from harness.plan.outcome import Outcome
from harness.plan.scaling import Rule
from harness.plan.settings import Start
from harness.plan.trial import Arm, Trial
from harness.questions import critical_batch

CONSTANT = {"_target_": "harness.plan.schedules.Constant"}


class CriticalBatch:
    """A trunk a seed, and branches from it; `at_examples` and `window_examples` are places and lengths in examples."""

    def __init__(
        self,
        design: Design,
        multipliers: Sequence[int],
        at_examples: Sequence[int],
        window_examples: int,
        tolerance: float,
    ) -> None:
        workload, every = design.workload, design.workload.evaluate_every_examples
        if sorted({1, *multipliers}) != list(multipliers) or len(multipliers) < 2:
            raise UserError(f"question.multipliers must rise from 1, e.g. [1,2,4,8], not {list(multipliers)}")
        for name, values in (("at_examples", at_examples), ("window_examples", [window_examples])):
            if not values or min(values) < 1 or any(value % every for value in values):
                raise UserError(
                    f"question.{name}={list(values)} must be positive multiples of evaluate_every_examples={every}"
                )
        if any(b <= a for a, b in pairwise(at_examples)):
            raise UserError(f"question.at_examples must rise, not {list(at_examples)}")
        if not (math.isfinite(tolerance) and tolerance >= 0):
            raise UserError(f"question.tolerance is a loss >= 0, not {tolerance}")
        if workload.schedule.get("_target_") != CONSTANT["_target_"]:
            raise UserError("question: branches need an LR that knows no horizon: use schedule=constant")
        self.multipliers, self.at_examples = list(multipliers), list(at_examples)
        self.window_examples, self.tolerance = window_examples, tolerance
        self.design = replace(design, workload=replace(workload, stop_at_target=False, read_beside=None))
        self.design.workload.check_batch_sizes([k * workload.base_batch_size for k in multipliers])

    @property
    def follows(self) -> str:
        """What the first round may lead to."""
        branches = len(self.multipliers) * len(self.at_examples) * len(self.design.rules)
        trials = branches * len(self.design.seeds)
        return f"{trials} branches of {self.window_examples:,} examples each, in all {trials * self.window_examples:,}"

    @property
    def trunk(self) -> Arm:
        workload = replace(self.design.workload, budget=Duration(self.at_examples[-1], "examples"))
        arm = workload.arm("none", workload.base_batch_size)
        return replace(arm, settings=replace(arm.settings, keep_at_examples=tuple(self.at_examples)))

    def branch(self, rule: Rule, examples: int, multiplier: int) -> Arm:
        """k times the base batch size from the trunk's state, without a warm-up."""
        budget = Duration(self.window_examples, "examples")
        workload = replace(self.design.workload, budget=budget, schedule=CONSTANT)
        size = multiplier * workload.base_batch_size
        arm = workload.arm(rule, size, variant={"from_examples": examples})
        return replace(arm, settings=replace(arm.settings, start=Start(self.trunk.settings, examples)))

    @property
    def branches(self) -> dict[tuple[str, int], list[Arm]]:
        """By rule and place."""
        places = [(rule, examples) for rule in self.design.rules for examples in self.at_examples]
        return {(rule.name, at): [self.branch(rule, at, k) for k in self.multipliers] for rule, at in places}

    def trials(self, records: Records) -> list[Trial]:
        trunks = [Trial(self.trunk, seed) for seed in self.design.seeds]
        ended = {trunk.seed: records.of(trunk) for trunk in trunks}
        # A trunk that diverged may have kept nothing to branch from.
        grown = [seed for seed, result in ended.items() if result and result.outcome is not Outcome.DIVERGED]
        arms = [arm for arms in self.branches.values() for arm in arms] if grown else []
        return [*trunks, *(Trial(arm, seed) for seed in grown for arm in arms)]

    def conclude(self, records: Records) -> Findings:
        return critical_batch.conclude(
            self.design,
            self.trunk,
            self.branches,
            records,
            tolerance=self.tolerance,
            window_examples=self.window_examples,
        )
