"""LR rules compared at every total batch size: what the questions whose arms are rules conclude alike."""

from collections.abc import Sequence
from itertools import combinations

from harness.analyse.arms import arm_findings
from harness.analyse.attempts import Attempts
from harness.analyse.conclude import findings
from harness.analyse.decision import Decision, decide, shared_base
from harness.analyse.findings import Findings, RuleComparison
from harness.analyse.protocol import is_constant
from harness.analyse.results import Records, observations_by_seed
from harness.analyse.rule_fits import fit_rules
from harness.plan.design import Declared, Design
from harness.plan.trial import Arm
from harness.questions.companions import Answers, answers_of_companions
from harness.questions.rule_sentences import critical_lines, critical_open, open_questions, rise_lines, verdict_lines
from harness.statistics.comparisons import Comparison, by_seed, compare, correct
from harness.statistics.estimates import pooled_log_spread


def rule_findings(
    question: str, design: Design, arms: Sequence[Arm], records: Records, declared: Declared | None
) -> Findings:
    """Compare LR-scaling rules at every total batch size; conclude on the declared pair first."""
    measured = arm_findings(design, arms, records)
    rows, results = measured
    attempts = Attempts()
    comparisons = attempts.of("Comparison of rules", lambda: compare_rules(design, arms, records, declared), [])
    fits = attempts.of("Curves through the arms", lambda: fit_rules(rows, results), [])
    decision = attempts.of("The recommendation", lambda: decide(rows, results, shared_base(design, arms)), None)
    answers = Answers()
    if any(row.n for row in rows):
        companions = "What other studies say of this one"
        answers = attempts.of(companions, lambda: answers_of_companions(design, arms, records, declared), answers)
    return findings(
        question,
        design,
        arms,
        records,
        measured,
        verdict=[*verdict_lines(rows, comparisons), *answers.verdict, *rise_lines(decision), *critical_lines(fits)],
        not_established=[*open_questions(comparisons), *answers.not_established, *critical_open(fits, rows)],
        comparisons=comparisons,
        fits=fits,
        sections=answers.sections,
        untested=answers.untested,
        decision=decision,
        untried=[*answers.untried, *_untried(design, decision)],
        attempts=attempts,
    )


def _untried(design: Design, decision: Decision | None) -> list[str]:
    """What no trial of the study varied, as noun phrases."""
    schedule = "an annealed schedule" if is_constant(design) else "a constant LR"
    return [schedule, *(["other devices"] if decision is not None and decision.compares_seconds else [])]


def compare_rules(
    design: Design, arms: Sequence[Arm], records: Records, declared: Declared | None
) -> list[RuleComparison]:
    """Every pair of rules that ran different trials at one TBS; the declared pair is kept out of Holm's count."""
    of_arm = {arm.label: records.of_arm(arm, design.seeds) for arm in arms}
    observed = {label: [result.observation() for result in results] for label, results in of_arm.items()}
    distinct = {str([r.trial.trial_id for r in results]): observed[label] for label, results in of_arm.items()}
    spread = pooled_log_spread(distinct.values())
    pairs: dict[str, tuple[Arm, Arm]] = {}
    for first, second in combinations(arms, 2):
        if first.total_batch_size == second.total_batch_size and first.settings != second.settings:
            pairs[f"{first.label}|{second.label}"] = (first, second)
    primary = next((name for name, pair in pairs.items() if _is_declared(pair, declared)), None)
    raw: dict[str, Comparison] = {}
    for name, (first, second) in pairs.items():
        a, b = (observations_by_seed(of_arm[arm.label]) for arm in (first, second))
        if a and b:
            raw[name] = compare(*by_seed(a, b), same_seeds=True, spread=spread)
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
