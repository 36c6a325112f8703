"""What runs from elsewhere say of each total batch size and LR rule, in the runs' own words."""

from collections.abc import Iterable
from dataclasses import replace

from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.plan.design import Design
from harness.plan.trial import Arm, Trial
from harness.questions.rule_comparison import rule_findings


def conclude(design: Design, trials: Iterable[Trial], records: Records) -> Findings:
    """The arms of `trials` by total batch size; nothing was declared beforehand."""
    arms: dict[str, Arm] = {str(trial.arm): trial.arm for trial in trials}
    ordered = sorted(arms.values(), key=lambda arm: arm.total_batch_size)
    question = "How many epochs and steps did each total batch size need to reach the target in the imported runs?"
    findings = rule_findings(question, design, ordered, records, None)
    how = records.folder.description().get("imported")  # studies of earlier versions do not say it
    caveats = [*findings.caveats, how] if how else findings.caveats
    return replace(findings, protocol="LR schedule and weights as the imported runs had them", caveats=caveats)
