"""How results are worded: verdicts, intervals, bounds, unknowns, axis labels. The only place where a phrase is defined.

Every sentence, table, figure and page takes its words from here, so that one thing has one name everywhere.
"""

import math
from collections.abc import Callable, Iterable, Sequence

from harness.plan.counted import count as count  # every noun with its number
from harness.statistics.comparisons import Comparison, Verdict
from harness.statistics.doubling import CostRise, Status
from harness.statistics.estimates import CONFIDENCE, Interval

# Axes and columns. The unit stands in the label.
TOTAL_BATCH_SIZE = "total batch size (examples per update)"
EPOCHS_TO_TARGET = "epochs to target"
UPDATES_TO_TARGET = "updates to target"
SECONDS_TO_TARGET = "seconds to target"
PEAK_LR = "peak LR"
BASE_LR = "base LR"

INFINITY = "∞"
UNKNOWN = "unknown"
NO_VALUE = "-"  # of a table's cell
ROUNDING = 1e-12  # a ratio as close to 1 as this is 1

NOTHING_YET = "No trial has finished: nothing can be said yet."
NOTHING_DRAWN = "Nothing to draw: no trial has finished."
NO_ARM_REACHED = (
    "No arm reached the target in more than half of its seeds within the budget: choose an easier target or a larger "
    "budget."
)
NO_RATIO = "no ratio of epochs is known"
SAME_TRIALS = "the same trials"
NO_DIFFERENCE = "no difference established"
NEVER = "never (diverged)"
EXCLUDED = "excluded from headline numbers"
NOT_MEASURED = "not measured in this study"
NOT_INTERLEAVED = (
    "compile=true: each TBS was timed in one go, so that a machine that becomes slower meanwhile looks like a "
    "difference between them"
)


def section_failed(section: str, why: str) -> str:
    """A part of a report that could not be made."""
    return f"{section} could not be made and is left out: {why}; everything else in this report stands"


# -- numbers ------------------------------------------------------------------------------------------------------


def number(value: float | None, digits: int = 3) -> str:
    """Up to `digits` significant digits without an exponent; infinity and unknown have their own signs."""
    if value is None or math.isnan(value):
        return NO_VALUE
    if math.isinf(value):
        return INFINITY if value > 0 else f"-{INFINITY}"
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def ratio(value: float) -> str:
    """A ratio of costs to two decimals; to more where it is small, or where two would round it to 1. Only what differs
    from 1 by rounding error is written as 1: an interval may end right next to it, and then excludes it."""
    if math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return INFINITY
    if 0 < value < 0.1:
        return number(value, 2)
    if abs(value - 1) < ROUNDING:
        return "1.00"
    written = (f"{value:.{decimals}f}" for decimals in (2, 3, 4, 5))
    return next((text for text in written if float(text) != 1), "1.00001" if value > 1 else "0.99999")


def percent(share: float, *, digits: int = 0, signed: bool = False) -> str:
    """A share of 1 as percents, with a space before the sign: `12 %`, `+12 %`."""
    if math.isnan(share):
        return UNKNOWN
    if math.isinf(share):
        return INFINITY if share > 0 else f"-{INFINITY}"
    return f"{100 * share:{'+' if signed else ''}.{digits}f} %"


def seeds(first: int, second: int | None = None) -> str:
    """How many trials a number rests on: `n = 5`, or `n = 5 and 4` of two arms."""
    return f"n = {first}" if second is None or first == second else f"n = {first} and {second}"


def more_than(bound: float, write: Callable[[float], str] = number) -> str:
    """A median that stopped trials hide: it lies beyond `bound`. An infinite bound is a median that never comes."""
    return f"more than {write(bound)}" if math.isfinite(bound) else NEVER


def at_least(bound: float, write: Callable[[float], str] = ratio) -> str:
    return f"at least {write(bound)}"


def bounded(value: float, least: float, most: float, write: Callable[[float], str] = ratio, lowest: float = 0.0) -> str:
    """A ratio, or a bound on it: an infinite one is at least `least`, one of `lowest` at most `most`."""
    if math.isinf(value):
        return at_least(least, write) if math.isfinite(least) else INFINITY
    return write(value) if value > lowest else f"at most {write(most)}"


# -- intervals ----------------------------------------------------------------------------------------------------


def coverage(interval: Interval) -> str:
    """What an interval promises: `95 %`. Never 100 %, which no sample can."""
    return _share(interval.coverage)


def unusual_coverage(share: float) -> str:
    """What stands behind an interval in a column of intervals that promise 95 %: ` (75 %)`; nothing where it does."""
    return "" if _share(share) == _share(CONFIDENCE) else f" ({_share(share)})"


def _share(coverage: float) -> str:
    return f"{min(99, round(100 * coverage))} %"


def interval(found: Interval, write: Callable[[float], str] = ratio, joined_by: str = "–") -> str:
    """`95 % interval 1.34–2.23`; one that excludes nothing says why."""
    if found.coverage in (0, 1):
        return found.method
    return f"{coverage(found)} interval {ends(found, write, joined_by)}"


def ends(found: Interval, write: Callable[[float], str] = ratio, joined_by: str = "–") -> str:
    """Both ends of an interval: `1.34–2.23`."""
    return f"{write(found.low)}{joined_by}{write(found.high)}"


# -- seconds ------------------------------------------------------------------------------------------------------


def slower_than_packed(arms: str, alone_s: float, packed_s: float) -> str:
    """An exclusive time that cannot be one, with both numbers and what to do."""
    return (
        f"seconds of {arms} are {EXCLUDED}: an update took {milliseconds(alone_s)} alone on the machine but "
        f"{milliseconds(packed_s)} in the trials, which may have shared it. The machine was busy during the timing "
        "pass, or the trials ran on a faster one; to time again, delete timing.jsonl in the study's folder and run the "
        "same command again on an idle machine"
    )


def other_conditions(arms: str, theirs: str, chosen: str) -> str:
    """Seconds that must not be compared with the others' (P34)."""
    return (
        f"seconds of {arms} are {EXCLUDED}: timed on {theirs or UNKNOWN}, the other arms on {chosen or UNKNOWN}. To "
        "time all of them alike, run the same command again on one kind of machine"
    )


def several_devices(labels: Sequence[str]) -> str:
    """Trials whose own clocks must not be combined (P34)."""
    return (
        f"trials ran on {joined(labels)}: no median of their own clocks is given for an arm that ran on several of "
        "them; headline seconds are those of the timing pass"
    )


def busy_machine(other_cpus: float, cpus: int) -> str:
    """Other processes that took processor time from the timing pass."""
    return (
        f"other processes kept up to {number(other_cpus, 2)} of {count(cpus, 'CPU')} busy during the timing pass: "
        "seconds may be too long"
    )


def milliseconds(seconds: float) -> str:
    return f"{number(1000 * seconds)} ms"


# -- verdicts -----------------------------------------------------------------------------------------------------


def p_value(p: float) -> str:
    """`p = 0.02`; small ones as a bound."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def p_holm(p: float, corrected_for: int | None = None) -> str:
    """`p = 0.02 after Holm's correction for 12`."""
    over = f" for {corrected_for}" if corrected_for is not None else ""
    return f"{p_value(p)} after Holm's correction{over}"


def judged_by(comparisons: int) -> str:
    """Why a verdict can be more careful than the interval next to it."""
    if comparisons < 2:
        return ""
    return f" (each interval for its pair alone; verdicts after Holm's correction for {comparisons})"


def equivalent(margin: float) -> str:
    return f"equivalent within {percent(margin)}"


def verdict(found: Verdict, margin: float) -> str:
    """What is established about a difference whose size the sentence has already given."""
    return {
        Verdict.SLOWER: "established",
        Verdict.FASTER: "established",
        Verdict.EQUIVALENT: equivalent(margin),
        Verdict.NOT_ESTABLISHED: "a difference is not established",
    }[found]


def needs_more_or_fewer(found: Comparison) -> str:
    """The verdict on the second of two arms, where the sentence has not given a size yet."""
    return {
        Verdict.SLOWER: "needs more, established",
        Verdict.FASTER: "needs fewer, established",
        Verdict.EQUIVALENT: equivalent(found.margin),
        Verdict.NOT_ESTABLISHED: NO_DIFFERENCE,
    }[found.verdict]


def seeds_needed(found: Comparison) -> str:
    """What would settle an open comparison; empty where nothing can be said."""
    return "" if found.seeds_needed is None else f"; {found.seeds_needed} seeds per arm would settle it"


def times(found: Comparison) -> str:
    """The ratio of two arms in words: `1.73 times`, or a bound where one of them missed."""
    return NO_RATIO if math.isnan(found.ratio) else f"{ratio_of(found)} times"


def ratio_of(found: Comparison) -> str:
    """The ratio of two arms: `1.73`, or a bound where one of them missed."""
    return UNKNOWN if math.isnan(found.ratio) else bounded(found.ratio, found.at_least, found.at_most)


def compared(found: Comparison, slower: str, faster: str, where: str) -> str:
    """`At TBS 512 none needs 1.73 times the epochs of linear (95 % interval 1.34–2.23, p < 0.001): established`.

    The arm that needs more is named first, whichever of `slower` (the ratio's numerator) and `faster` it is.
    """
    if math.isnan(found.ratio):
        return f"{where} {slower} against {faster}: {NO_RATIO} ({interval(found.interval)})"
    value, least, most = found.ratio, found.at_least, found.at_most
    low, high = found.interval.low, found.interval.high
    if value < 1:
        slower, faster, value = faster, slower, _inverse(value)
        least, most, low, high = _inverse(most), _inverse(least), _inverse(high), _inverse(low)
    size = bounded(value, least, most)
    known = f"{interval(Interval(low, high, found.interval.coverage, found.interval.method))}, {p_value(found.p)}"
    judged = verdict(found.verdict, found.margin)
    if size == INFINITY:
        return f"{where} {slower} never reaches the target, which {faster} does ({known}): {judged}"
    return f"{where} {slower} needs {size} times the epochs of {faster} ({known}): {judged}{seeds_needed(found)}"


def factor(size: float) -> str:
    """`twice`, or `1.2 times`."""
    return "twice" if size == 2 else f"{size:g} times"


def costs_from(rise: CostRise) -> str:
    """`from about TBS 190 on (95 % 64–256)`, a bound, or that the sweep does not show it."""
    if rise.status is Status.NOT_IN_SWEEP:
        return f"nowhere up to TBS {rise.low:,.0f}"
    if rise.status is Status.NOT_SHOWN:
        return "not shown from any TBS on"
    one_sided = "" if math.isnan(rise.coverage) else f" ({percent((1 + rise.coverage) / 2, digits=1)})"
    if rise.status is Status.AT_LEAST:
        return f"from above TBS {rise.low:,.0f} on{one_sided}"
    if rise.status is Status.AT_MOST:
        return f"from TBS {rise.high:,.0f} on or before{one_sided}"
    return f"from about TBS {rise.value:,.0f} on ({bracket(rise)})"


def bracket(rise: CostRise) -> str:
    """`95 % 64–256`; without replicates `between neighbours 64–256`."""
    shown_by = "between neighbours" if math.isnan(rise.coverage) else percent(rise.coverage)
    return f"{shown_by} {rise.low:,.0f}–{rise.high:,.0f}"


def _inverse(value: float) -> float:
    return 1 / value if value else math.inf


def joined(words: Iterable[str], conjunction: str = "and") -> str:
    """`a, b and c`."""
    *first, last = [*words] or [""]
    return f"{', '.join(first)} {conjunction} {last}" if first else last
