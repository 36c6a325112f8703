"""What a comparison of LR rules says, in words: verdicts, open questions and critical batch sizes."""

import math
from collections.abc import Sequence

from harness.analyse.arms import ArmFinding
from harness.analyse.findings import RuleComparison
from harness.analyse.rule_fits import RuleFit
from harness.statistics.comparisons import Comparison, Verdict
from harness.statistics.critical_batch import Status


def verdict_lines(rows: Sequence[ArmFinding], comparisons: Sequence[RuleComparison]) -> list[str]:
    measured = [row for row in rows if row.n]
    if not measured:
        return ["No trial has finished: nothing can be said yet."]
    if not any(math.isfinite(row.place.examples) for row in measured):
        return [
            "No arm reached the target in its budget in half of its seeds: choose an easier target or a larger budget."
        ]
    lines = [_epochs_line(measured)]
    primary = next((c for c in comparisons if c.primary), None)
    if primary is not None:
        lines.append(_primary_line(primary))
    paying = _paying_line(measured)
    return [*lines, *([paying] if paying else [])]


def _epochs_line(rows: Sequence[ArmFinding]) -> str:
    """Epochs at the largest TBS under each rule against the smallest TBS."""
    smallest, largest = min(r.total_batch_size for r in rows), max(r.total_batch_size for r in rows)
    base = next(row for row in rows if row.total_batch_size == smallest)
    tops = [row for row in rows if row.total_batch_size == largest]
    said = ", ".join(f"{row.label} {_epochs(row)}" for row in tops)
    if smallest == largest:
        return f"TBS {largest}: epochs to target (median of {base.n} seeds) {said}."
    return f"TBS {smallest} needs {_epochs(base)} epochs (median of {base.n} seeds); TBS {largest} needs: {said}."


def _epochs(row: ArmFinding) -> str:
    if math.isfinite(row.place.examples):
        return f"{row.epochs:.3g}"
    at_least = row.place.at_least / row.train_examples
    return f"more than {at_least:.3g}" if math.isfinite(at_least) else "never (diverged)"


def _primary_line(found: RuleComparison) -> str:
    """The declared comparison with interval and verdict, the slower rule named first."""
    result, slower, faster = found.result, found.second, found.first
    ratio, low, high = result.ratio, result.interval.low, result.interval.high
    if ratio < 1:
        slower, faster, ratio = faster, slower, (1 / ratio if ratio else math.inf)
        low, high = (1 / high if high else math.inf), (1 / low if low else math.inf)
    words = {
        Verdict.SLOWER: "established",
        Verdict.FASTER: "established",
        Verdict.EQUIVALENT: f"equivalent within {result.margin:.0%}",
        Verdict.NOT_ESTABLISHED: f"a difference is not established{_seeds(result)}",
    }[result.verdict]
    if math.isnan(ratio):
        pair = f"{found.first} against {found.second} at TBS {found.total_batch_size}"
        return f"Declared: {pair}: neither reached, nothing to compare."
    interval = f"{_coverage(result)} interval {low:.2f}–{_bound(high)}"
    p = f"p {'< 0.001' if result.p < 0.001 else f'= {result.p:.2g}'}"
    times = f"at least {low:.2f}" if math.isinf(ratio) else f"{ratio:.2f}"
    return (
        f"Declared: at TBS {found.total_batch_size} {slower} needs {times} times the epochs of {faster} "
        f"({interval}, {p}): {words}."
    )


def _coverage(result: Comparison) -> str:
    """What the ratio's interval promises; one seed promises nothing."""
    return f"{result.interval.coverage:.0%}".replace("%", " %")


def _bound(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.2f}"


def _seeds(result: Comparison) -> str:
    if not math.isfinite(result.seeds_needed):
        return ""
    return f"; about {result.seeds_needed:.0f} seeds per arm would settle it"


def _paying_line(rows: Sequence[ArmFinding]) -> str | None:
    """Where a bigger batch stops paying in seconds on the measured topology, and what it costs in data."""
    timed = [row for row in rows if row.seconds is not None and math.isfinite(row.seconds)]
    if len({row.total_batch_size for row in timed}) < 2:
        return None
    best = min(timed, key=lambda row: row.seconds or math.inf)
    base = min(timed, key=lambda row: (row.total_batch_size, row.seconds or math.inf))
    largest = max(row.total_batch_size for row in timed)
    top = min((row for row in timed if row.total_batch_size == largest), key=lambda row: row.seconds or math.inf)
    updates, examples = top.steps / base.steps, top.place.examples / base.place.examples
    return (
        f"On this topology TBS {best.total_batch_size} ({best.label}) is soonest there, in {best.seconds:.3g} s of "
        f"training; TBS {largest} ({top.label}) takes {top.seconds:.3g} s, {updates:.2g} times the updates and "
        f"{examples:.2g} times the examples of TBS {base.total_batch_size}."
    )


def open_questions(comparisons: Sequence[RuleComparison]) -> list[str]:
    """Pairs at the largest total batch size that the data do not settle, and how many smaller ones there are."""
    undecided = [c for c in comparisons if c.result.verdict is Verdict.NOT_ESTABLISHED and not c.primary]
    if not undecided:
        return []
    largest = max(c.total_batch_size for c in comparisons)
    lines = []
    for c in undecided:
        if c.total_batch_size == largest:
            ratio = "unknown" if math.isnan(c.result.ratio) else _bound(c.result.ratio)
            alone = f"{_coverage(c.result)} {c.result.interval.low:.2f}–{_bound(c.result.interval.high)} alone"
            holm = f"p = {c.result.p_adjusted:.2g} after Holm's correction for {c.result.corrected_for}"
            pair = f"{c.second} against {c.first} at TBS {largest}"
            lines.append(f"{pair}: epochs ratio {ratio} ({alone}, {holm}){_seeds(c.result)}")
    others = len(undecided) - len(lines)
    return [*lines, *([f"{others} of the comparisons at smaller TBS"] if others else [])]


def _has_critical(fitted: RuleFit) -> bool:
    return fitted.is_hyperbola and fitted.critical[0].status is Status.IDENTIFIED


def critical_lines(fits: Sequence[RuleFit]) -> list[str]:
    """The critical batch size of every rule for which the sweep shows one, with its definition."""
    said = [f"{fitted.label} {fitted.critical[0]}" for fitted in fits if _has_critical(fitted)]
    return [f"Critical batch size, E_min / S_min of the fitted hyperbola: {'; '.join(said)}."] if said else []


def critical_open(fits: Sequence[RuleFit], rows: Sequence[ArmFinding]) -> list[str]:
    lines = [
        f"the critical batch size under {f.label}: {f.critical[0] if f.is_hyperbola else f.diagnosis.rstrip('.')}"
        for f in fits
        if not _has_critical(f)
    ]
    if not fits and any(row.n for row in rows):
        lines.append("the critical batch size: a fit takes three total batch sizes that reach the target")
    return lines
