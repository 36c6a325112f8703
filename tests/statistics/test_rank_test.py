"""Two arms with misses: the exact rank test under the earliest stop, and the ratios it does not reject."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.plan.outcome import Outcome
from harness.statistics.comparisons import Verdict, compare, correct
from harness.statistics.estimates import Observation, scaled
from harness.statistics.rank_test import least_p, ratio_test


def reached(value, width=0.0):
    return Observation(Outcome.REACHED, float(value), float(value) - width)


def censored(stop=40.0):
    return Observation(Outcome.CENSORED, math.inf, float(stop))


def dominated(stop):
    return Observation(Outcome.DOMINATED, math.inf, float(stop))


def arm(values, width=0.0):
    return [reached(value, width) for value in values]


DIVERGED = Observation(Outcome.DIVERGED, math.inf, 3.0)
FAST = [8.0, 8.5, 9.0, 7.5, 8.2]

trials = st.lists(
    st.one_of(
        st.integers(1, 12).map(lambda i: reached(i / 2, 0.5)),
        st.integers(1, 12).map(lambda i: censored(i / 2)),
        st.integers(1, 12).map(lambda i: dominated(i / 2)),
        st.just(DIVERGED),
    ),
    min_size=1,
    max_size=5,
)


def enumerated_p(a, b, theta):
    """The definition, spelled out: b divided by theta, everything from the earliest stop on one tie, all splits."""
    b = [scaled(o, 1 / theta) for o in b]
    both = [*a, *b]
    stops = [o.low for o in both if o.outcome in (Outcome.CENSORED, Outcome.DOMINATED)]
    stop = min(stops, default=math.inf)
    firsts = [o.value for o in both if o.reached and o.low <= 0]
    first = max(firsts, default=0.0)
    if first >= stop * (1 - 1e-9):
        return 1.0
    values = []
    for o in both:
        if o.place >= stop * (1 - 1e-9):
            values.append(1e9)
        else:
            values.append(0.0 if o.place <= first * (1 + 1e-9) else float(f"{o.middle:.9g}"))
    ranks = stats.rankdata(values)
    centre = len(a) * (len(ranks) + 1) / 2
    sums = [abs(sum(ranks[i] for i in split) - centre) for split in combinations(range(len(ranks)), len(a))]
    return float(np.mean(np.array(sums) >= sums[0] - 1e-9))


@given(trials, trials, st.sampled_from([0.5, 0.7, 0.999, 1.0, 1.001, 1.25, 2.0, 3.1]))
def test_every_ratio_has_the_p_of_the_definition(a, b, theta):
    found = ratio_test([(a, b)])
    at = math.log(theta)
    index = int(np.searchsorted(found.breaks, at - 1e-7))
    is_break = index < len(found.breaks) and abs(found.breaks[index] - at) < 1e-7
    p = found.p[2 * index + 1 if is_break else 2 * index]
    assert p == pytest.approx(enumerated_p(a, b, theta))
    assert found.p_at_one == pytest.approx(enumerated_p(a, b, 1.0))


@given(trials, trials)
def test_the_hull_holds_every_ratio_that_is_not_rejected_and_the_verdict_is_whether_it_holds_one(a, b):
    found, result = ratio_test([(a, b)]), compare(a, b)
    interval = found.interval
    for theta in np.geomspace(0.05, 20, 60):
        if enumerated_p(a, b, theta) >= 0.05:
            assert interval.low * (1 - 1e-8) <= theta <= interval.high * (1 + 1e-8)
    assert (1 not in interval) == (found.p_different < 0.05)
    if math.isnan(result.p_welch):
        assert (result.verdict is Verdict.SLOWER) == (interval.low > 1)
        assert (result.verdict is Verdict.FASTER) == (interval.high < 1)
        assert math.isnan(found.ratio) or interval.low <= found.ratio <= interval.high


def test_a_copy_of_an_arm_cut_early_is_not_slower():
    """Every trial of the copy stopped at 2, where none of the first had crossed yet: nothing is known of a ratio."""
    result = compare(arm(FAST), [censored(2)] * 5)
    assert (result.verdict, result.p) == (Verdict.NOT_ESTABLISHED, 1.0)
    assert 1 in result.interval
    assert compare([censored(2)] * 5, arm(FAST)).verdict is Verdict.NOT_ESTABLISHED


def test_a_budget_that_was_long_enough_establishes_that_its_misses_are_later():
    """All of a crossed by 9, none of b by 40. Where the stop comes to 8.5, three of a are known to be earlier: p 17 %.
    Beyond it four are; 12 of 252 splits are as extreme: 4.8 %."""
    result = compare(arm(FAST), [censored(40)] * 5)
    assert (result.verdict, result.p) == (Verdict.SLOWER, pytest.approx(2 / 252))
    assert result.ratio == math.inf
    assert (result.interval.low, result.interval.high) == (pytest.approx(40 / 8.5), math.inf)
    assert result.interval.label == "rank test 95 %"


def test_a_race_stops_trials_without_making_them_slower():
    """Stopped at 8.2 as no longer winning: the two fast trials of a say nothing of what is beyond."""
    result = compare(arm(FAST), [dominated(8.2)] * 5)
    assert result.verdict is Verdict.NOT_ESTABLISHED
    assert result.p_permutation == pytest.approx(enumerated_p(arm(FAST), [dominated(8.2)] * 5, 1.0))


def test_a_diverged_trial_is_later_than_everything_and_censors_nobody():
    result = compare(arm(FAST), [*arm([8.1, 8.3, 8.6, 8.8]), DIVERGED])
    assert result.p_permutation == pytest.approx(
        stats.mannwhitneyu(FAST, [8.1, 8.3, 8.6, 8.8, math.inf], method="exact").pvalue
    )
    assert compare(arm(FAST), [DIVERGED] * 5).verdict is Verdict.SLOWER
    assert compare(arm(FAST), [DIVERGED] * 5).interval.low == math.inf  # it never crosses: no finite ratio


def test_without_stops_the_test_is_mann_and_whitneys_and_the_interval_hodges_and_lehmanns():
    rng = np.random.default_rng(4)
    a, b = rng.lognormal(0, 0.3, 6), rng.lognormal(0.2, 0.3, 7)
    found = ratio_test([(arm(a), arm(b))])
    assert found.p_at_one == pytest.approx(stats.mannwhitneyu(a, b, method="exact").pvalue)
    ratios = np.sort((b[:, None] / a).ravel())
    interval = found.interval
    assert interval.low == pytest.approx(ratios[6])  # P(U <= 6) = 0.0175 < 2.5 % <= P(U <= 7), tables of Wilcoxon
    assert interval.high == pytest.approx(ratios[-7])
    assert found.ratio == pytest.approx(float(np.median(ratios)), rel=0.03)


def test_three_against_three_cannot_reach_5_percent_and_say_so():
    result = compare(arm([8, 9, 10]), [censored(40)] * 3)
    assert least_p(3, 3) == pytest.approx(0.1)
    assert result.reason == "3 against 3 trials cannot reach 5 % by ranks"
    assert (result.verdict, result.interval.label) == (Verdict.NOT_ESTABLISHED, result.reason)
    assert result.interval.is_everything
    four = compare(arm([8, 9, 10, 8.5]), [censored(40)] * 4)
    assert (four.verdict, four.p, four.reason) == (Verdict.SLOWER, pytest.approx(2 / 70), "")


def test_a_p_of_exactly_5_percent_does_not_reject():
    """One trial before nineteen whose top is one tie: 1 of 20 splits is as extreme."""
    later = [*arm([2, 3, 4, 5, 6, 7, 8, 9, 10, 11]), *[censored(40)] * 9]
    found = ratio_test([(arm([1]), later)])
    assert found.p_at_one == 0.05
    assert compare(arm([1]), later).verdict is Verdict.NOT_ESTABLISHED


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        ([censored()] * 5, [DIVERGED] * 5, "no trial reached the target"),
        ([], arm(FAST), "no data"),
        ([reached(8), *[censored(2)] * 4], [censored(2)] * 5, ""),
    ],
    ids=["none reached", "empty", "reached only beyond the earliest stop"],
)
def test_where_nothing_can_be_compared_nothing_is(a, b, reason):
    result = compare(a, b)
    assert (result.verdict, result.reason) == (Verdict.NOT_ESTABLISHED, reason)
    assert math.isnan(result.ratio)
    assert result.interval.is_everything


def test_a_target_met_at_the_first_evaluation_bounds_a_ratio_from_below_only():
    """0.25 evaluated every 0.25 is anywhere down to 0: 8 is at least 32 times that, and no t interval holds."""
    result = compare([reached(0.25, 0.25)] * 5, arm([8, 8.25, 8.5, 8, 8.25], 0.25))
    assert (result.interval.low, result.interval.high) == (pytest.approx(32), math.inf)
    assert (result.ratio, result.verdict) == (math.inf, Verdict.SLOWER)
    at_once = Observation(Outcome.REACHED, 0.0, 0.0)
    assert compare([at_once] * 5, arm(FAST)).verdict is Verdict.SLOWER
    assert compare([at_once] * 5, [at_once] * 5).verdict is Verdict.NOT_ESTABLISHED


def test_holms_correction_may_take_a_verdict_back_but_never_gives_one():
    weak = compare(arm(FAST), [*arm([9.5, 10, 8.9, 9.2]), censored(12)])
    assert weak.verdict is Verdict.SLOWER
    judged = correct({str(i): weak for i in range(6)})
    assert {result.verdict for result in judged.values()} == {Verdict.NOT_ESTABLISHED}
    assert all(result.p_adjusted >= 0.05 for result in judged.values())


def test_large_arms_are_judged_by_the_normal_law_with_ties():
    rng = np.random.default_rng(1)
    a, b = np.round(rng.lognormal(0, 0.3, 30), 1), np.round(rng.lognormal(0.15, 0.3, 25), 1)
    found = ratio_test([(arm(a), arm(b))])
    assert not found.is_exact
    assert found.p_at_one == pytest.approx(stats.mannwhitneyu(a, b, method="asymptotic").pvalue, rel=1e-6)


def test_one_common_ratio_of_several_pairs_is_found():
    """Arms of two studies: each pair has its own scale and its own earliest stop."""
    rng = np.random.default_rng(2)
    pairs = []
    for scale in (1, 4, 16, 64):
        a, b = scale * np.exp(0.1 * rng.standard_normal(5)), 1.5 * scale * np.exp(0.1 * rng.standard_normal(5))
        pairs.append((arm(a), [reached(v) if v < 1.5 * scale else censored(1.5 * scale) for v in b]))
    found = ratio_test(pairs)
    assert 1.5 in found.interval
    assert found.interval.high / found.interval.low < 1.4
    assert found.p_different < 1e-4


def test_budgets_of_40_and_10_do_not_make_the_same_arm_slower():
    """With misses at infinity, 24 to 28 % of such pairs were "established"."""
    rng = np.random.default_rng(3)
    for n, cv in ((4, 0.2), (5, 0.3)):
        claims = 0
        for _ in range(400):
            pair = []
            for budget in (40.0, 10.0):
                places = np.ceil(8 * np.exp(cv * rng.standard_normal(n)) / 0.5) * 0.5
                pair.append([reached(v, 0.5) if v <= budget else censored(budget) for v in places])
            claims += compare(*pair).verdict in (Verdict.SLOWER, Verdict.FASTER)
        assert claims / 400 <= 0.05
