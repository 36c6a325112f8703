"""Which momentum reaches the target fastest at each total batch size?

Design: a grid of momenta, even in log(1 - momentum) as its memory of 1 / (1 - momentum) updates is (Smith 2018,
1803.09820, section 4.3, tries 0.8 to 0.99), at every total batch size and seed. `hold` says what stays the same:
`effective_lr` keeps LR / (1 - momentum), the length of a step in a steady direction, at its value for the optimizer's
own momentum; `lr` keeps the LR itself, so that a larger momentum also means larger steps.
"""

from collections.abc import Sequence
from dataclasses import replace

from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.plan.design import Design
from harness.plan.errors import UserError
from harness.plan.scaling import Rule
from harness.plan.trial import Arm, Trial
from harness.questions import momentum_search


class MomentumSearch:
    """A grid of momentum x total batch size x seed, for an optimizer with a momentum (SGD) or betas (Adam: beta1)."""

    def __init__(self, design: Design, total_batch_sizes: Sequence[int], momenta: Sequence[float], hold: str) -> None:
        if not total_batch_sizes:
            raise UserError("question.total_batch_sizes is empty: give at least one, e.g. [16,128,512]")
        if len(set(momenta)) < 3 or not all(0 <= momentum < 1 for momentum in momenta):
            raise UserError(f"question.momenta must be 3 or more numbers in [0, 1), not {list(momenta)}")
        if hold not in momentum_search.HELD:
            raise UserError(f"question.hold must be one of {', '.join(momentum_search.HELD)}, not {hold!r}")
        self.design, self.hold = design, hold
        if len(design.rules) != 1:
            raise UserError(
                f"momentum_search compares momenta under one LR rule, not under {', '.join(design.scaling_rules)}: "
                "use e.g. lr_scaling=linear"
            )
        design.workload.check_batch_sizes(total_batch_sizes)
        sizes, chosen = sorted(set(total_batch_sizes)), sorted(set(momenta))
        self.arms = [self._arm(design.rules[0], tbs, momentum) for tbs in sizes for momentum in chosen]

    def _arm(self, rule: Rule, total_batch_size: int, momentum: float) -> Arm:
        workload = self.design.workload
        optimizer, factor = dict(workload.optimizer), 1.0
        if "betas" in optimizer and self.hold == "lr":
            optimizer["betas"] = [momentum, optimizer["betas"][1]]
        elif optimizer.get("momentum"):
            factor = (1 - momentum) / (1 - optimizer["momentum"]) if self.hold == "effective_lr" else 1.0
            optimizer["momentum"] = momentum
        else:
            raise UserError(
                f"momentum_search with question.hold={self.hold} needs optimizer.momentum > 0"
                f"{' or optimizer.betas' if self.hold == 'lr' else ' (betas: use question.hold=lr)'}, which "
                f"{optimizer['_target_']} does not write out"
            )
        workload = replace(workload, optimizer=optimizer, base_lr=workload.base_lr * factor)
        return workload.arm(rule, total_batch_size, variant={"momentum": momentum})

    def trials(self, records: Records) -> list[Trial]:
        return [Trial(arm, seed) for arm in self.arms for seed in self.design.seeds]

    def conclude(self, records: Records) -> Findings:
        return momentum_search.conclude(self.design, self.arms, records, self.hold)
