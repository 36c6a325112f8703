"""How many epochs, steps and seconds does each total batch size need to reach the target, under each LR rule?

Design: every rule at every total batch size over the same seeds (at k = 1 the rules are one trial, run once), each
trial until its target is confirmed or its budget ends. Protocol and statistics: P4-P6 and P13-P16. With
`annealed_check` the largest total batch size also gets the length that a schedule annealed to zero needs under each
rule, so that both answers stand side by side (P13).
"""

from collections.abc import Sequence
from dataclasses import replace

from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.plan.design import Declared, Design, check_tuning_seeds
from harness.plan.errors import UserError
from harness.plan.scaling import Rule
from harness.plan.trial import Arm, Trial
from harness.questions import tbs_sweep
from harness.questions.schedule_length import LengthQuestion


class TbsSweep:
    """A grid of total batch size x LR-scaling rule x seed."""

    def __init__(
        self,
        design: Design,
        total_batch_sizes: Sequence[int],
        annealed_check: bool = False,
        annealed_seeds: Sequence[int] = (100, 101, 102),
    ) -> None:
        if not total_batch_sizes:
            raise UserError("question.total_batch_sizes is empty: give at least one, e.g. [16,64,256]")
        self.design = design
        self.total_batch_sizes = sorted(set(total_batch_sizes))
        design.workload.check_batch_sizes(self.total_batch_sizes)
        self.annealed: list[LengthQuestion] = []
        if annealed_check:
            check_tuning_seeds(annealed_seeds, design.seeds, "annealed_seeds")
            self.annealed = [self._annealed(rule, tuple(annealed_seeds)) for rule in design.rules]

    @property
    def arms(self) -> list[Arm]:
        rules, workload = self.design.rules, self.design.workload
        return [workload.arm(rule, tbs) for tbs in self.total_batch_sizes for rule in rules]

    @property
    def declared(self) -> Declared | None:
        """The primary comparison: the first rule against the last at the largest total batch size."""
        rules = self.design.scaling_rules
        return Declared((rules[0], rules[-1]), self.total_batch_sizes[-1]) if len(rules) > 1 else None

    def trials(self, records: Records) -> list[Trial]:
        sweep = [Trial(arm, seed) for arm in self.arms for seed in self.design.seeds]
        return sweep + [trial for question in self.annealed for trial in question.trials(records)]

    def conclude(self, records: Records) -> Findings:
        return tbs_sweep.conclude(self.design, self.arms, records, self.declared, self.annealed)

    def _annealed(self, rule: Rule, seeds: tuple[int, ...]) -> LengthQuestion:
        """The length that a linear decay to zero needs at the largest TBS, after the workload's own warm-up."""
        workload = self.design.workload
        schedule = {"_target_": "harness.plan.horizons.Decay", "horizon": None, "warmup": workload.schedule["warmup"]}
        return LengthQuestion(
            replace(workload, schedule=schedule),
            rule,
            self.total_batch_sizes[-1],
            seeds,
            self.design.seeds,
            start=max(1, workload.budget_examples // workload.evaluate_every_examples // 4),
            points=3,
        )
