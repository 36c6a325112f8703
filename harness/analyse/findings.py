"""One Findings object per study: what every renderer shows, so that the numbers are the same everywhere (P24)."""

from dataclasses import asdict, dataclass, field
from typing import Any

from harness.analyse.arms import ArmFinding
from harness.analyse.curves import LearningCurve
from harness.analyse.decision import Decision
from harness.analyse.decision_sentences import FirstScreen
from harness.analyse.fixed_budget import FixedBudget
from harness.analyse.reach import ReachLine
from harness.analyse.rule_fits import RuleFit
from harness.analyse.rule_lines import RuleLine
from harness.analyse.sections import Section
from harness.analyse.targets import TargetPoint
from harness.plan.outcome import Outcome
from harness.statistics.comparisons import Comparison


@dataclass(frozen=True)
class RuleComparison:
    """Two rules at one total batch size; the ratio is epochs of `second` over epochs of `first`."""

    first: str
    second: str
    total_batch_size: int
    primary: bool  # declared before the data; the others are exploratory and Holm-corrected (P16)
    result: Comparison


@dataclass(frozen=True)
class Findings:
    """What a study found."""

    question: str
    protocol: str  # how the target was reached: schedule and averaging; every headline names it (P13)
    target: str
    read_beside: str | None
    verdict: list[str]
    not_established: list[str]
    aims_at_target: bool  # False: trials use up their budget by design, and what counts is in the sections
    arms: list[ArmFinding]
    comparisons: list[RuleComparison]
    fits: list[RuleFit]
    sections: list[Section]  # what this question adds
    curves: list[LearningCurve]
    fixed_budgets: list[FixedBudget]
    by_target: list[TargetPoint]
    reach: list[ReachLine]  # shares of seeds that have reached by each place, of arms at the largest TBS
    caveats: list[str]
    metric: str  # the target's metric, on the validation split
    target_value: float
    outcomes: dict[str, int]  # of distinct trials: a run that several rules share counts once
    planned: int  # distinct trials
    settings: list[dict[str, Any]]  # resolved values of each arm, in the order of `arms`
    data: str  # fingerprint of the records
    trials: int
    provenance: dict[str, Any]
    rules: list[RuleLine] = field(default_factory=list)  # the study's own and the classic ones, from its base point
    own_columns: dict[str, str] = field(default_factory=dict)  # the user's own, each with what it says of itself
    failed_sections: list[str] = field(default_factory=list)  # a sentence on each part that could not be made
    damage: list[str] = field(default_factory=list)  # those of `caveats` on damaged files and trials
    decision: Decision | None = None  # of a question about TBS and rules
    first_screen: FirstScreen | None = None  # the decision in words

    def endings(self) -> dict[str, int]:
        """How many distinct trials ended in which way, in words."""
        counts = {kind: count for kind, count in self.outcomes.items() if count}
        if self.aims_at_target:
            return counts
        used_up = sum(counts.pop(kind, 0) for kind in (str(Outcome.REACHED), str(Outcome.CENSORED)))
        return {**({"at the end of their budget": used_up} if used_up else {}), **counts}

    def sentences_of(self, section: Section) -> list[str]:
        """The sentences of `section`, less those that the verdict above it already has."""
        return [line for line in section.sentences if line not in self.verdict]

    def to_json(self) -> dict[str, Any]:
        """Without a word on damage, or on columns of the user's own, where there are none."""
        found = asdict(self)
        if not self.damage:
            del found["damage"]
        if not self.own_columns:
            del found["own_columns"]
            for arm in found["arms"]:
                del arm["extra"]
        return found
