"""What do runs from elsewhere say: how many epochs and steps did each total batch size need under each LR rule?

Filled by `python -m harness.track STUDY --from-wandb SOURCE`: the plan is what was found, nothing is run. The rules'
names are the runs' own words; protocol, split and tuning are whatever made them, and nothing is declared beforehand.
"""

from collections.abc import Sequence

from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.plan.design import Design
from harness.plan.trial import Trial
from harness.questions import imported


class Imported:
    """Every arm that the study's plan lists."""

    def __init__(self, design: Design) -> None:
        self.design = design

    def trials(self, records: Records) -> Sequence[Trial]:
        return [planned.trial for planned in records.folder.plan()]

    def conclude(self, records: Records) -> Findings:
        return imported.conclude(self.design, self.trials(records), records)
