"""Every phrase has one place: how each is written, and that no other module writes it again."""

import ast
import math
import re
from pathlib import Path

import pytest

from harness.plan.outcome import Outcome
from harness.statistics import words
from harness.statistics.comparisons import Verdict, compare
from harness.statistics.estimates import Interval, Observation

ROOT = Path(__file__).parents[2]
FIVE = Interval(1.34, 2.229, 0.95, "Welch t on log")


def reached(*places: float) -> list[Observation]:
    return [Observation(Outcome.REACHED, place, place - 0.5) for place in places]


def missed(count: int, at: float) -> list[Observation]:
    return [Observation(Outcome.CENSORED, math.inf, at)] * count


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (words.number(12345.678), "12,346"),
        (words.number(0.07), "0.07"),
        (words.number(math.inf), "∞"),
        (words.number(None), "-"),
        (words.ratio(1.7296), "1.73"),
        (words.ratio(math.inf), "∞"),
        (words.ratio(1.0), "1.00"),
        (words.ratio(1.0004), "1.0004"),  # an interval from here on excludes 1, and is seen to
        (words.ratio(0.9971), "0.997"),
        (words.ratio(1 + 1e-14), "1.00"),
        (words.ratio(0.0031), "0.0031"),
        (words.ratio(math.nan), "unknown"),
        (words.percent(0.123), "12 %"),
        (words.percent(0.123, digits=1), "12.3 %"),
        (words.percent(-0.05, signed=True), "-5 %"),
        (words.percent(math.inf), "∞"),
        (words.count(1, "update"), "1 update"),
        (words.count(1200, "update"), "1,200 updates"),
        (words.count(2, "study", "studies"), "2 studies"),
        (words.count(1_234_567, "example"), "1,234,567 examples"),
        (words.count("1", "epoch"), "1 epoch"),
        (words.count("more than 1", "epoch"), "more than 1 epoch"),
        (words.count("1.5", "epoch"), "1.5 epochs"),
        (words.unusual_coverage(0.75), " (75 %)"),
        (words.unusual_coverage(0.9688), " (97 %)"),
        (words.unusual_coverage(0.95), ""),
        (words.seeds(5), "n = 5"),
        (words.seeds(5, 5), "n = 5"),
        (words.seeds(5, 4), "n = 5 and 4"),
        (words.more_than(40), "more than 40"),
        (words.more_than(math.inf), "never (diverged)"),
        (words.interval(FIVE), "95 % interval 1.34–2.23"),
        (words.interval(FIVE, "{:+.1f}".format, " to "), "95 % interval +1.3 to +2.2"),
        (words.interval(Interval(0, math.inf, 1.0, "no data")), "no data"),
        (words.coverage(Interval(0, 1, 0.9999, "exact")), "99 %"),
        (words.p_value(0.0004), "p < 0.001"),
        (words.p_value(0.0215), "p = 0.021"),
        (words.p_holm(0.2, 12), "p = 0.2 after Holm's correction for 12"),
        (words.verdict(Verdict.EQUIVALENT, 0.1), "equivalent within 10 %"),
        (words.verdict(Verdict.NOT_ESTABLISHED, 0.1), "a difference is not established"),
        (words.judged_by(1), ""),
        (words.joined(["a", "b", "c"]), "a, b and c"),
        (words.joined(["a"]), "a"),
        (words.joined([]), ""),
    ],
)
def test_a_phrase_reads_as_written(written, text):
    assert written == text


def test_a_time_that_cannot_be_one_is_named_with_both_numbers_and_what_to_do():
    said = words.slower_than_packed("none TBS 16 and sqrt TBS 16", 0.0147, 0.0032)
    assert said.startswith(
        "seconds of none TBS 16 and sqrt TBS 16 are excluded from headline numbers: an update took 14.7 ms alone on "
        "the machine but 3.2 ms in the trials, which may have shared it."
    )
    assert said.endswith("delete timing.jsonl in the study's folder and run the same command again on an idle machine")


def test_what_a_timing_was_measured_under_is_named():
    said = words.other_conditions("none TBS 16", "NVIDIA A100", "")
    assert "timed on NVIDIA A100, the other arms on unknown." in said
    assert words.busy_machine(1.04, 2) == (
        "other processes kept up to 1 of 2 CPUs busy during the timing pass: seconds may be too long"
    )
    assert words.milliseconds(0.0147) == "14.7 ms"


def test_only_a_ratio_of_1_is_written_as_1():
    written = [words.ratio(value) for value in (1 - 1e-11, 1 - 1e-4, 1.0, 1 + 1e-11, 1.0004, 1.004, 1.006)]
    assert written == ["0.99999", "0.9999", "1.00", "1.00001", "1.0004", "1.004", "1.01"]


def test_the_slower_arm_is_named_first_whichever_way_the_ratio_was_taken():
    slow, fast = reached(8, 8.5, 9, 8, 8.5), reached(4, 4.5, 4, 4.5, 4)
    one_way = words.compared(compare(fast, slow), "slow", "fast", "at TBS 8")
    other_way = words.compared(compare(slow, fast), "fast", "slow", "at TBS 8")
    assert one_way == other_way
    assert re.fullmatch(
        r"at TBS 8 slow needs 2\.0\d times the epochs of fast \(95 % interval \S+, p < 0\.001\): established", one_way
    )


def test_a_ratio_that_a_miss_hides_is_a_bound_and_two_misses_are_no_ratio():
    bound = words.times(compare(reached(4, 4.5, 4, 4.5, 5), missed(5, 40)))
    assert re.fullmatch(r"at least \d+\.\d\d times", bound)
    nothing = compare(missed(3, 40), missed(3, 40))
    assert words.times(nothing) == words.NO_RATIO
    because = "no trial reached the target"
    assert words.compared(nothing, "b", "a", "at TBS 8") == f"at TBS 8 b against a: {words.NO_RATIO} ({because})"


def test_an_arm_that_diverged_is_not_given_an_infinite_ratio():
    never = [Observation(Outcome.DIVERGED, math.inf, 0.0)] * 4
    for found, names in ((compare(reached(4, 4, 5, 5), never), "ab"), (compare(never, reached(4, 4, 5, 5)), "ba")):
        said = words.compared(found, names[1], names[0], "at TBS 8")
        assert said.startswith("at TBS 8 b never reaches the target, which a does (")
        assert "∞ times" not in said


def test_neither_bound_of_a_ratio_is_printed_as_a_number_of_its_own():
    """40 over 4 and its inverse: never "needs infinite epochs", nor "0.00 times"."""
    fast, never = reached(4, 4.5, 4, 4.5, 4), missed(5, 40)
    assert words.times(compare(fast, never)) == "at least 10.00 times"
    assert words.times(compare(never, fast)) == "at most 0.10 times"
    said = words.compared(compare(never, fast), "fast", "never", "at TBS 8")
    assert said.startswith("at TBS 8 never needs at least 10.00 times the epochs of fast (95 % interval ")
    few = words.compared(compare(fast[:3], never[:3]), "never", "fast", "at TBS 8")
    assert "3 against 3 trials cannot reach 5 % by ranks" in few


PHRASES = (
    words.INFINITY,
    words.TOTAL_BATCH_SIZE,
    words.NOTHING_YET,
    words.NOTHING_DRAWN,
    words.NO_ARM_REACHED,
    words.NO_RATIO,
    words.SAME_TRIALS,
    words.NO_DIFFERENCE,
    words.EXCLUDED,
    words.NOT_INTERLEAVED,
    "a difference is not established",
    "equivalent within",
    "after Holm's correction for",
    "would settle it",
)
PACKAGES = ("statistics", "analyse", "questions", "published", "report", "commands")


def texts(path: Path) -> list[str]:
    """Every string of a module but its docstrings; parts of f-strings too."""
    tree = ast.parse(path.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented) and node.body
                  and isinstance(node.body[0], ast.Expr)}  # fmt: skip
    constants = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return [str(node.value) for node in constants if id(node) not in docstrings]


def test_no_other_module_writes_a_phrase_again():
    modules = [path for package in PACKAGES for path in (ROOT / "harness" / package).rglob("*.py")]
    modules += (ROOT / "experiments").glob("*.py")
    assert len(modules) > 80
    again = {
        f"{path.relative_to(ROOT)}: {phrase}"
        for path in modules
        if path.name != "words.py"
        for text in texts(path)
        for phrase in PHRASES
        if phrase in text
    }
    assert not again


def test_the_template_takes_its_phrases_from_there():
    template = (ROOT / "harness" / "report" / "page.html.jinja").read_text()
    assert not [phrase for phrase in PHRASES if phrase in template]
    assert "words.NOTHING_DRAWN" in template
