"""What do runs from elsewhere say: how many epochs and steps did each total batch size need under each LR rule?

Filled by `python -m harness.track STUDY --from-wandb SOURCE`: the plan is what was found, nothing is run. The rules'
names are the runs' own words; protocol, split and tuning are whatever made them, and nothing is declared beforehand.
"""

from collections.abc import Sequence
from dataclasses import replace

from harness.analyse.conclude import rule_findings
from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.plan.design import Design
from harness.plan.trial import Arm, Trial


class Imported:
    """Every arm that the study's plan lists."""

    def __init__(self, design: Design) -> None:
        self.design = design

    def trials(self, records: Records) -> Sequence[Trial]:
        return [planned.trial for planned in records.folder.plan()]

    def conclude(self, records: Records) -> Findings:
        arms: dict[str, Arm] = {str(trial.arm): trial.arm for trial in self.trials(records)}
        ordered = sorted(arms.values(), key=lambda arm: arm.total_batch_size)
        question = "How many epochs and steps did each total batch size need to reach the target in the imported runs?"
        findings = rule_findings(question, self.design, ordered, records, None)
        return replace(findings, protocol="LR schedule and weights as the imported runs had them")
