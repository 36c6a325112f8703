"""From arms to findings: the declared comparison, the exploratory ones, a verdict in words, and its caveats."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from harness.analyse.arms import ArmFinding, arm_findings, distinct_trials
from harness.analyse.caveats import caveats
from harness.analyse.companions import Beside, look_beside
from harness.analyse.curves import learning_curve
from harness.analyse.findings import Findings, RuleComparison
from harness.analyse.fixed_budget import fixed_budgets
from harness.analyse.reach import reach_lines
from harness.analyse.results import Records, TrialResult, records_fingerprint
from harness.analyse.rule_fits import RuleFit, fit_rules
from harness.analyse.sections import Section
from harness.analyse.sentences import (
    best_lr_lines,
    critical_lines,
    critical_open,
    open_questions,
    protocol,
    verdict_lines,
)
from harness.analyse.targets import answers_by_target
from harness.plan.design import Declared, Design
from harness.plan.outcome import Outcome
from harness.plan.trial import Arm, Trial
from harness.statistics.comparisons import Comparison, compare, correct
from harness.statistics.estimates import Observation, pooled_log_spread


def rule_findings(
    question: str, design: Design, arms: Sequence[Arm], records: Records, declared: Declared | None
) -> Findings:
    """Compare LR-scaling rules at every total batch size; conclude on the declared pair first."""
    measured = arm_findings(design, arms, records)
    rows, results = measured
    comparisons = compare_rules(design, arms, records, declared)
    fits = fit_rules(rows, results)
    beside = look_beside(design, arms, records, declared) if any(row.n for row in rows) else Beside()
    return findings(
        question,
        design,
        arms,
        records,
        measured,
        verdict=[*verdict_lines(rows, comparisons), *beside.verdict, *critical_lines(fits)],
        not_established=[*open_questions(comparisons), *beside.not_established, *critical_open(fits, rows)],
        comparisons=comparisons,
        fits=fits,
        sections=beside.sections,
        untested=beside.untested,
    )


def lr_findings(question: str, design: Design, arms: Sequence[Arm], records: Records) -> Findings:
    """Which LR of a grid at one total batch size has the smallest median; ties go to the second target's median."""
    measured = arm_findings(design, arms, records)
    verdict = best_lr_lines(measured[0], design.workload.evaluate_every_examples)
    return findings(question, design, arms, records, measured, verdict=verdict)


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
) -> Findings:
    """What every question reports alike, from `measured` (arm_findings of the same arms), with its own words and
    `sections`; `untested` leads the caveats."""
    rows, results = measured
    trials = distinct_trials(results)
    aims = any(arm.settings.stop_at_target for arm in arms)
    curves = [learning_curve(row.label, found, row.step_s) for row, found in zip(rows, results, strict=True)]
    target = records.target or design.workload.target
    return Findings(
        question=question,
        protocol=protocol(design),
        target=f"validation {target}",
        read_beside=str(design.workload.read_beside) if design.workload.read_beside else None,
        verdict=list(verdict),
        not_established=list(not_established),
        aims_at_target=aims,
        arms=rows,
        comparisons=list(comparisons),
        fits=list(fits),
        sections=list(sections),
        curves=[curve for curve in curves if curve is not None],
        fixed_budgets=fixed_budgets(rows, results),
        by_target=answers_by_target(rows, results),
        caveats=caveats(design, rows, comparisons, records, aims, untested),
        reach=reach_lines(rows, results) if aims else [],
        metric=target.metric,
        target_value=target.value,
        outcomes={str(kind): sum(trial.outcome is kind for trial in trials) for kind in Outcome},
        planned=len({Trial(arm, seed).trial_id for arm in arms for seed in design.seeds}),
        settings=[arm.settings.to_json() for arm in arms],
        data=records_fingerprint(trials),
        trials=len(trials),
        provenance=provenance(records),
    )


def compare_rules(
    design: Design, arms: Sequence[Arm], records: Records, declared: Declared | None
) -> list[RuleComparison]:
    """Every pair of rules that ran different trials at one TBS; the declared pair is kept out of Holm's count."""
    found = {arm.label: records.of_arm(arm, design.seeds) for arm in arms}
    observed = {label: [result.observation() for result in results] for label, results in found.items()}
    distinct = {str([r.trial.trial_id for r in results]): observed[label] for label, results in found.items()}
    spread = pooled_log_spread(distinct.values())
    pairs: dict[str, tuple[Arm, Arm]] = {}
    for first, second in combinations(arms, 2):
        if first.total_batch_size == second.total_batch_size and first.settings != second.settings:
            pairs[f"{first.label}|{second.label}"] = (first, second)
    primary = next((name for name, pair in pairs.items() if _is_declared(pair, declared)), None)
    raw: dict[str, Comparison] = {}
    for name, (first, second) in pairs.items():
        a, b = _same_seeds(found[first.label], found[second.label])
        if a and b:
            raw[name] = compare(a, b, same_seeds=True, spread=spread)
    return [
        RuleComparison(
            pairs[name][0].scaling_rule,
            pairs[name][1].scaling_rule,
            pairs[name][0].total_batch_size,
            name == primary,
            result,
        )
        for name, result in correct(raw, primary).items()
    ]


def _is_declared(pair: tuple[Arm, Arm], declared: Declared | None) -> bool:
    rules = (pair[0].scaling_rule, pair[1].scaling_rule)
    return declared is not None and rules == declared.rules and pair[0].total_batch_size == declared.total_batch_size


def _same_seeds(
    first: Sequence[TrialResult], second: Sequence[TrialResult]
) -> tuple[list[Observation], list[Observation]]:
    """Observations of the seeds both arms have a result for, in one order."""
    ours = {result.trial.seed: result for result in first if result.outcome.is_data}
    theirs = {result.trial.seed: result for result in second if result.outcome.is_data}
    common = [seed for seed in ours if seed in theirs]
    return [ours[seed].observation() for seed in common], [theirs[seed].observation() for seed in common]


def provenance(records: Records) -> dict[str, Any]:
    """What made the numbers, as the report prints it: no host, no path."""
    described = records.folder.description()
    keys = ("experiment", "name", "git", "versions", "hardware", "code_fingerprint", "data_fingerprint", "doctor")
    return {key: described[key] for key in keys if key in described}
