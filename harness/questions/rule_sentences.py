"""What a comparison of LR rules says, in words: verdicts, open questions and critical batch sizes."""

import math
from collections.abc import Sequence

from harness.analyse.arms import ArmFinding
from harness.analyse.decision import Decision
from harness.analyse.decision_sentences import rise_line
from harness.analyse.findings import RuleComparison
from harness.analyse.rule_fits import RuleFit
from harness.plan.scaling import UNSCALED
from harness.statistics import words
from harness.statistics.comparisons import Verdict
from harness.statistics.critical_batch import Status


def verdict_lines(rows: Sequence[ArmFinding], comparisons: Sequence[RuleComparison]) -> list[str]:
    measured = [row for row in rows if row.n]
    if not measured:
        return [words.NOTHING_YET]
    if not any(math.isfinite(row.place.examples) for row in measured):
        return [words.NO_ARM_REACHED]
    lines = [_epochs_line(measured)]
    primary = next((c for c in comparisons if c.primary), None)
    if primary is not None:
        lines.append(_primary_line(primary))
    return lines


def _epochs_line(rows: Sequence[ArmFinding]) -> str:
    """Epochs at the largest TBS under each rule against the smallest TBS."""
    smallest, largest = min(r.total_batch_size for r in rows), max(r.total_batch_size for r in rows)
    base = next(row for row in rows if row.total_batch_size == smallest)
    tops = [row for row in rows if row.total_batch_size == largest]
    by_rule = ", ".join(f"{row.label} {_epochs(row)}" for row in tops)
    median = f"median of {words.count(base.n, 'seed')}"
    if smallest == largest:
        return f"TBS {largest}: {words.EPOCHS_TO_TARGET} ({median}) {by_rule}."
    return f"TBS {smallest} {_needs(base)} ({median}); TBS {largest} needs: {by_rule}."


def _needs(row: ArmFinding) -> str:
    needed = _epochs(row)
    return "never reaches the target (diverged)" if needed == words.NEVER else f"needs {words.count(needed, 'epoch')}"


def _epochs(row: ArmFinding) -> str:
    if math.isfinite(row.place.examples):
        return words.number(row.epochs)
    return words.more_than(row.place.at_least / row.train_examples)


def _primary_line(found: RuleComparison) -> str:
    """The declared comparison with interval and verdict, the slower rule named first."""
    where = f"at TBS {found.total_batch_size}"
    slower = found.second if found.result.ratio > 1 else found.first
    if slower == UNSCALED and found.result.verdict in (Verdict.SLOWER, Verdict.FASTER):
        where += " scale the LR:"
    return f"Declared: {words.compared(found.result, found.second, found.first, where)}."


def open_questions(comparisons: Sequence[RuleComparison]) -> list[str]:
    """Pairs at the largest total batch size that the data do not settle, and how many smaller ones there are."""
    undecided = [c for c in comparisons if c.result.verdict is Verdict.NOT_ESTABLISHED and not c.primary]
    if not undecided:
        return []
    largest = max(c.total_batch_size for c in comparisons)
    lines = []
    for c in undecided:
        if c.total_batch_size == largest:
            alone = f"{words.interval(c.result.interval)}{'' if c.result.reason else ' for this pair alone'}"
            holm = words.p_holm(c.result.p_adjusted, c.result.corrected_for)
            pair = f"{c.second} against {c.first} at TBS {largest}"
            ratio = words.ratio_of(c.result)
            lines.append(f"{pair}: ratio of epochs {ratio} ({alone}, {holm}){words.seeds_needed(c.result)}")
    others = len(undecided) - len(lines)
    return [*lines, *([f"{others} of the comparisons at smaller TBS"] if others else [])]


def rise_lines(decision: Decision | None) -> list[str]:
    """From where every rule costs twice its cheapest arm's data, without a fitted curve."""
    line = "" if decision is None else rise_line(decision.rises)
    return [line] if line else []


def _has_critical(fitted: RuleFit) -> bool:
    return fitted.is_hyperbola and fitted.critical[0].status is Status.IDENTIFIED


def critical_lines(fits: Sequence[RuleFit]) -> list[str]:
    """The critical batch size of every rule for which the sweep shows one, with its definition."""
    sizes = [f"under {fitted.label} {fitted.critical[0]}" for fitted in fits if _has_critical(fitted)]
    return [f"Critical batch size, E_min / S_min of the fitted hyperbola: {'; '.join(sizes)}."] if sizes else []


def critical_open(fits: Sequence[RuleFit], rows: Sequence[ArmFinding]) -> list[str]:
    lines = [
        f"the critical batch size under {f.label}: {f.critical[0] if f.is_hyperbola else f.diagnosis.rstrip('.')}"
        for f in fits
        if not _has_critical(f)
    ]
    if not fits and any(row.n for row in rows):
        lines.append("the critical batch size: a fit needs three total batch sizes that reach the target")
    return lines
