"""From measured arms to findings: what every question reports alike."""

from collections.abc import Sequence
from typing import Any

from harness.analyse.arms import ArmFinding, distinct_trials
from harness.analyse.attempts import Attempts
from harness.analyse.caveats import caveats
from harness.analyse.curves import learning_curve
from harness.analyse.decision import Decision
from harness.analyse.decision_sentences import first_screen
from harness.analyse.findings import Findings, RuleComparison
from harness.analyse.fixed_budget import fixed_budgets
from harness.analyse.own_columns import with_own_columns
from harness.analyse.protocol import protocol
from harness.analyse.reach import reach_lines
from harness.analyse.results import Records, TrialResult, records_fingerprint
from harness.analyse.rule_fits import RuleFit
from harness.analyse.rule_lines import rule_lines
from harness.analyse.sections import Section
from harness.analyse.targets import answers_by_target
from harness.plan.design import Design
from harness.plan.outcome import Outcome
from harness.plan.trial import Arm, Trial
from harness.record.code_fingerprint import fingerprint_text
from harness.record.journal import damaged


def findings(
    question: str,
    design: Design,
    arms: Sequence[Arm],
    records: Records,
    measured: tuple[list[ArmFinding], list[list[TrialResult]]],
    *,
    verdict: Sequence[str],
    not_established: Sequence[str] = (),
    comparisons: Sequence[RuleComparison] = (),
    fits: Sequence[RuleFit] = (),
    sections: Sequence[Section] = (),
    untested: Sequence[str] = (),
    decision: Decision | None = None,
    untried: Sequence[str] = (),
    attempts: Attempts | None = None,
) -> Findings:
    """What every question reports alike, from `measured` (arm_findings of the same arms), with its own words and
    `sections`; `untested` leads the caveats, `untried` is what may overturn the `decision`.
    A part that fails is left out and named, as are those that `attempts` already holds."""
    attempts = attempts or Attempts()
    measured_rows, results = measured
    rows, failed_columns = with_own_columns(measured_rows, design.arm_columns)
    trials = distinct_trials(results)
    aims = any(arm.settings.stop_at_target for arm in arms)
    curves = attempts.of(
        "Learning curves",
        lambda: [learning_curve(row.label, found, row.step_s) for row, found in zip(rows, results, strict=True)],
        [],
    )
    workload = design.workload
    target = records.target or workload.target
    damage = [damaged(line) for line in records.damage()]
    return Findings(
        question=question,
        protocol=protocol(design),
        target=f"validation {target}",
        read_beside=str(workload.read_beside) if workload.read_beside else None,
        verdict=list(verdict),
        not_established=list(not_established),
        aims_at_target=aims,
        arms=rows,
        comparisons=list(comparisons),
        fits=list(fits),
        sections=list(sections),
        curves=[curve for curve in curves if curve is not None],
        fixed_budgets=attempts.of("What a fixed budget buys", lambda: fixed_budgets(rows, results), []),
        by_target=attempts.of("The answer against the target", lambda: answers_by_target(rows, results), []),
        caveats=[*damage, *caveats(design, rows, comparisons, records, aims, untested), *failed_columns],
        damage=damage,
        reach=attempts.of("The share of seeds that reached", lambda: reach_lines(rows, results), []) if aims else [],
        metric=target.metric,
        target_value=target.value,
        outcomes={str(kind): sum(trial.outcome is kind for trial in trials) for kind in Outcome},
        planned=len({Trial(arm, seed).trial_id for arm in arms for seed in design.seeds}),
        settings=[arm.settings.to_json() for arm in arms],
        data=records_fingerprint(trials),
        trials=len(trials),
        provenance=provenance(records),
        rules=rule_lines(
            design.reference_rules,
            [row.total_batch_size for row in rows if row.n],
            (workload.base_batch_size, workload.base_lr),
        ),
        own_columns={column.name: column.note for column in design.arm_columns},
        decision=decision,
        first_screen=attempts.of(
            "The recommendation", lambda: None if decision is None else first_screen(decision, untried), None
        ),
        failed_sections=attempts.failed,
    )


def provenance(records: Records) -> dict[str, Any]:
    """What made the numbers, as the report prints it: no host, no path."""
    described = records.folder.description()
    keys = ("experiment", "name", "git", "versions", "hardware", "code_fingerprint", "data_fingerprint", "doctor")
    known = {key: described[key] for key in keys if key in described}
    if "code_fingerprint" in known:
        known["code_fingerprint"] = fingerprint_text(known["code_fingerprint"])
    return known
