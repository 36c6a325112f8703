"""What an experiment is given to plan with, and what it promises in return."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.plan.errors import UserError
from harness.plan.workload import Workload


@dataclass(frozen=True)
class Design:
    """The workload under study, the rules to compare and the seeds to replicate over."""

    workload: Workload
    scaling_rules: tuple[str, ...]
    power: float | None
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.seeds:
            raise UserError("seeds is empty: give at least one seed, e.g. seeds=[0,1,2,3,4]")
        if len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"seeds must differ, not {list(self.seeds)}")
        if min(self.seeds) < 0:
            raise UserError(f"seeds are integers >= 0, not {min(self.seeds)}")
        if not self.scaling_rules:
            raise UserError("lr_scaling.rules is empty: name at least one of none, sqrt, linear, power")


@dataclass(frozen=True)
class Declared:
    """The one comparison an experiment declares before its data; every other one is exploratory (P16)."""

    rules: tuple[str, str]  # reported as the ratio second / first
    total_batch_size: int


def check_tuning_seeds(tuning_seeds: Sequence[int], reporting_seeds: Sequence[int], name: str = "tuning_seeds") -> None:
    """Raises UserError unless the seeds that choose are usable and none of them reports (P16)."""
    if not tuning_seeds or len(set(tuning_seeds)) < len(tuning_seeds) or min(tuning_seeds) < 0:
        raise UserError(f"question.{name} must be distinct integers >= 0, at least one, not {list(tuning_seeds)}")
    if common := sorted(set(tuning_seeds) & set(reporting_seeds)):
        raise UserError(
            f"question.{name} and seeds share {', '.join(map(str, common))}: a seed that chooses must not report"
        )
