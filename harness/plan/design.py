"""What an experiment plans with, and the comparison it declares in advance."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.plan.arm_columns import ArmColumn
from harness.plan.errors import UserError
from harness.plan.scaling import RULE_NAMES, Rule, reference_rules
from harness.plan.workload import Workload


@dataclass(frozen=True)
class Design:
    """The workload under study, the rules to compare, the seeds to replicate over, and what its table shows besides."""

    workload: Workload
    rules: tuple[Rule, ...]
    seeds: tuple[int, ...]
    arm_columns: tuple[ArmColumn, ...] = ()

    def __post_init__(self) -> None:
        if not self.seeds:
            raise UserError("seeds is empty: give at least one seed, e.g. seeds=[0,1,2,3,4]")
        if len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"seeds must differ, not {list(self.seeds)}")
        if min(self.seeds) < 0:
            raise UserError(f"seeds must be integers >= 0, not {min(self.seeds)}")
        if not self.rules:
            raise UserError(f"lr_scaling.rules is empty: name at least one of {', '.join(RULE_NAMES)}")
        if len(set(self.scaling_rules)) < len(self.rules):
            raise UserError(f"lr_scaling.rules must differ, not {list(self.scaling_rules)}")
        adaptive = next((rule.name for rule in self.rules if rule.adaptive), None)
        if adaptive is not None and len(self.rules) > 1:
            raise UserError(
                f"lr_scaling.rules: {adaptive} is a controller that measures during training and is not compared with "
                f"other rules: give it its own study, lr_scaling={adaptive} study=NAME"
            )

    @property
    def scaling_rules(self) -> tuple[str, ...]:
        """The names of the rules, which are the labels of their arms."""
        return tuple(rule.name for rule in self.rules)

    @property
    def reference_rules(self) -> tuple[Rule, ...]:
        """The rules that a measured LR is compared with: the classic ones and this study's own."""
        return reference_rules(self.rules)


@dataclass(frozen=True)
class Declared:
    """The one comparison an experiment declares before its data; every other one is exploratory (P16)."""

    rules: tuple[str, str]  # reported as the ratio second / first
    total_batch_size: int


def check_tuning_seeds(tuning_seeds: Sequence[int], reporting_seeds: Sequence[int], name: str = "tuning_seeds") -> None:
    """Raises UserError unless the tuning seeds are valid and none of them is also a reporting seed (P16)."""
    if not tuning_seeds or len(set(tuning_seeds)) < len(tuning_seeds) or min(tuning_seeds) < 0:
        raise UserError(f"question.{name} must be distinct integers >= 0, at least one, not {list(tuning_seeds)}")
    if common := sorted(set(tuning_seeds) & set(reporting_seeds)):
        raise UserError(
            f"question.{name} and seeds share {', '.join(map(str, common))}: "
            "a seed used for tuning must not be used for reporting"
        )
