"""How many epochs, steps and seconds each total batch size needs to the target, under each LR rule."""

from collections.abc import Sequence
from dataclasses import replace

from harness.analyse.caveats import ONE_PROTOCOL
from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.plan.design import Declared, Design
from harness.plan.trial import Arm
from harness.questions.rule_comparison import rule_findings
from harness.questions.schedule_length import LengthQuestion, length_section


def conclude(
    design: Design,
    arms: Sequence[Arm],
    records: Records,
    declared: Declared | None,
    annealed: Sequence[LengthQuestion] = (),
) -> Findings:
    """The rules compared, and what the `annealed` check found with a schedule that ends at the target (P13)."""
    question = "How many epochs, steps and seconds does each total batch size need to reach the target?"
    compared = rule_findings(question, design, arms, records, declared)
    if not annealed:
        return compared
    section = length_section(annealed, records)
    lengths = [f"Annealed to zero instead: {sentence}" for sentence in section.sentences]
    caveats = [line for line in compared.caveats if line != ONE_PROTOCOL.format("an annealed schedule")]
    sections = [*compared.sections, section]
    return replace(compared, verdict=[*compared.verdict, *lengths], sections=sections, caveats=caveats)
