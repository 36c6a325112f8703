"""Which momentum reaches the target with the fewest epochs at each total batch size."""

from collections.abc import Sequence

from harness.analyse.arms import arm_findings
from harness.analyse.conclude import findings
from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.plan.design import Design
from harness.plan.trial import Arm
from harness.questions.swept_parameter import SweptParameter, grid_section

MOMENTUM = SweptParameter(
    "momentum",
    "momentum",
    lambda row: float(row.variant["momentum"]),
    lambda momentum: 1 - momentum,
    "1 - momentum (a long memory is on the left)",
)
HELD = {"effective_lr": "LR / (1 - momentum) held", "lr": "LR held"}  # what stays the same from arm to arm, in words


def conclude(design: Design, arms: Sequence[Arm], records: Records, hold: str) -> Findings:
    """The best momentum of each total batch size, with `hold` (a key of HELD) the same in all of its arms."""
    measured = arm_findings(design, arms, records)
    section = grid_section(*measured, MOMENTUM, design.workload.evaluate_every_examples)
    question = f"Which momentum reaches the target fastest at each total batch size ({HELD[hold]})?"
    return findings(question, design, arms, records, measured, verdict=section.sentences, sections=[section])
