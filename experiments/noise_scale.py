"""How noisy is the gradient over training, and which total batch size does that predict as critical?

Design: one rule's LR at every total batch size over the same seeds, to the end of the budget. Two measurements of the
noise scale tr(Sigma) / |G|^2 (McCandlish et al. 2018, 1812.06162, section 2.2 and appendix A.1) that must agree: in
training, from micro-batches against their batch, every update; at frozen weights, from gradients of single examples
(ghost groups under batch norm) drawn apart from training, a few times along the way. Both are corrected for drawing
without replacement; intervals are bootstraps over blocks of draws, and where |G|^2 cannot be told from 0 there is
none. The default rule is linear, which keeps LR / TBS and with it the temperature: the noise scale of a run follows
its temperature (ibid., appendix C).
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.plan.design import Design
from harness.plan.errors import UserError
from harness.plan.gradient_noise import NoiseScale as Measurement
from harness.plan.trial import Arm, Trial
from harness.questions import noise_scale


class NoiseScale:
    """Trials that measure their gradient's noise; `measurements` places along the budget.

    `frozen_units`: gradients drawn at each of them; 0: only in training. `sweep`: folder of a finished tbs_sweep, whose
    critical batch sizes are put beside.
    """

    def __init__(
        self,
        design: Design,
        total_batch_sizes: Sequence[int],
        measurements: int,
        frozen_units: int,
        in_training: bool = True,
        sweep: str | None = None,
    ) -> None:
        workload = design.workload
        if not total_batch_sizes:
            raise UserError("question.total_batch_sizes is empty: give at least one, e.g. [32,128,512]")
        if not in_training and not frozen_units:
            raise UserError("question.in_training=false and question.frozen_units=0 measure nothing: choose one")
        evaluations = workload.budget_examples // workload.evaluate_every_examples
        if not 1 <= measurements <= evaluations:
            raise UserError(
                f"question.measurements must be between 1 and the budget's {evaluations} evaluations, "
                f"not {measurements}"
            )
        self.every_examples = evaluations // measurements * workload.evaluate_every_examples
        self.critical = [] if sweep is None else noise_scale.measured_critical(Path(sweep).expanduser())
        plan = Measurement(in_training, self.every_examples if frozen_units else 0, frozen_units)
        self.design = replace(design, workload=replace(workload, noise_scale=plan, stop_at_target=False))
        self.total_batch_sizes = sorted(set(total_batch_sizes))
        self.design.workload.check_batch_sizes(self.total_batch_sizes)

    @property
    def arms(self) -> list[Arm]:
        rules, workload = self.design.rules, self.design.workload
        return [workload.arm(rule, tbs) for rule in rules for tbs in self.total_batch_sizes]

    def trials(self, records: Records) -> list[Trial]:
        return [Trial(arm, seed) for arm in self.arms for seed in self.design.seeds]

    def conclude(self, records: Records) -> Findings:
        return noise_scale.conclude(self.design, self.arms, records, self.every_examples, self.critical)
