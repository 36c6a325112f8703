"""What is said of how the best LR grows with TBS: the rules compared, those that fit, and those without an exponent."""

import math

import pytest

from harness.analyse.sections import Section
from harness.plan.scaling import ADASCALE, CLASSIC, Rule, reference_rules
from harness.questions.range_test import RangeFinding
from harness.questions.range_test import growth_section as range_growth
from harness.questions.tuned import Candidate, SearchedLr, growth_section
from harness.statistics.range_test import RangeBounds

SIZES = (16, 32, 64, 128, 256, 512)
CUBE_ROOT = Rule("cube_root", lambda k: k ** (1 / 3), 1 / 3)
LOGARITHMIC = Rule("logarithmic", lambda k: 1 + math.log(k))


def tuned(exponent: float, *rules: Rule) -> Section:
    """The section of a tuned sweep whose best LR grows with `exponent` under these rules."""
    lrs = {tbs: 0.08 * (tbs / 16) ** exponent for tbs in SIZES}
    found = [SearchedLr(t, [Candidate(lr, 1e4, 1e4, 1, (1, 1), (1, 0))], lr, False, True) for t, lr in lrs.items()]
    return growth_section(found, reference_rules(rules), (16, 0.08))


def range_test(exponent: float, *rules: Rule) -> Section:
    """The section of a range test whose largest useful LR grows with `exponent`."""
    found = [
        RangeFinding(tbs, 1, RangeBounds(0.01, 0.1, lr, 9.0), lr, lr, 0.001, 10.0)
        for tbs, lr in ((tbs, 0.1 * (tbs / 16) ** exponent) for tbs in SIZES)
    ]
    return range_growth(found, reference_rules(rules), 1.2)


@pytest.mark.parametrize("section", [tuned, range_test])
@pytest.mark.parametrize(
    ("exponent", "rules", "compared", "verdict"),
    [
        (0.5, CLASSIC, "rules: none 0, sqrt 0.5, linear 1)", "is compatible with the rule sqrt"),
        (1 / 3, CLASSIC, "rules: none 0, sqrt 0.5, linear 1)", "excludes every exponent of these rules"),
        (1 / 3, (CUBE_ROOT,), "linear 1, cube_root 0.333)", "is compatible with the rule cube_root"),
        (0.75, (CUBE_ROOT,), "linear 1, cube_root 0.333)", "excludes every exponent of these rules"),
        (0.5, (LOGARITHMIC,), "linear 1; logarithmic has no exponent)", "is compatible with the rule sqrt"),
        (0.0, (ADASCALE,), "linear 1; adascale has no exponent)", "is compatible with the rule none"),
    ],
)
def test_the_growth_is_compared_with_the_studys_own_rules(section, exponent, rules, compared, verdict):
    (sentence,) = section(exponent, *rules).sentences
    assert compared in sentence
    assert f"which {verdict}." in sentence


@pytest.mark.parametrize("section", [tuned, range_test])
def test_every_rule_that_gives_an_lr_is_drawn(section):
    (plot,) = section(0.5, CUBE_ROOT, LOGARITHMIC, ADASCALE).plots
    drawn = {series.label: series.y[-1] / series.y[0] for series in plot.series if series.kind == "curve"}
    factors = {"none": 1, "sqrt": 32**0.5, "linear": 32, "cube_root": 32 ** (1 / 3), "logarithmic": 1 + math.log(32)}
    assert drawn == pytest.approx(factors)


def test_rules_with_an_exponent_have_a_column_each():
    (table,) = tuned(0.5, CUBE_ROOT, LOGARITHMIC).tables
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert list(row) == ["exponent", "low", "high", "points", "none", "sqrt", "linear", "cube_root"]
    assert (row["none"], row["sqrt"], row["linear"], row["cube_root"]) == (0.0, 0.5, 1.0, 1 / 3)


def test_a_rule_that_is_undefined_at_some_batch_sizes_is_drawn_at_the_others():
    below = Rule("below", lambda k: math.log(k))  # no LR at k = 1
    (plot,) = tuned(0.5, below).plots
    (series,) = [series for series in plot.series if series.label == "below"]
    assert list(series.x) == list(SIZES[1:])
