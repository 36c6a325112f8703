"""Which LR of a wide grid reaches the target with the fewest epochs at each total batch size, and which do at all."""

from collections.abc import Sequence

from harness.analyse.arms import arm_findings
from harness.analyse.conclude import findings
from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.plan.design import Design
from harness.plan.trial import Arm
from harness.questions.swept_parameter import SweptParameter, grid_section

LR = SweptParameter("lr", "LR", lambda row: row.peak_lr, lambda lr: lr, "peak LR")


def conclude(design: Design, arms: Sequence[Arm], records: Records) -> Findings:
    """The best LR of each total batch size and those not distinguished from it."""
    measured = arm_findings(design, arms, records)
    section = grid_section(*measured, LR, design.workload.evaluate_every_examples)
    question = "Which LR of a wide grid reaches the target fastest at each total batch size?"
    return findings(question, design, arms, records, measured, verdict=section.sentences, sections=[section])
