"""Two arms: ratio, tests, equivalence, Holm, pairing, regret. Tests are checked against scipy and by hand."""

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.plan.outcome import Outcome
from harness.statistics.comparisons import (
    Verdict,
    by_seed,
    compare,
    correct,
    holm,
    p_mean_below,
    p_slower,
    regrets,
)
from harness.statistics.estimates import Observation, PooledSpread
from harness.statistics.two_sample import pairing_pays


def reached(value, width=0.0):
    return Observation(Outcome.REACHED, float(value), float(value) - width)


def censored(stop=40.0):
    return Observation(Outcome.CENSORED, math.inf, float(stop))


DIVERGED = Observation(Outcome.DIVERGED, math.inf, math.nan)
FAILED = Observation(Outcome.FAILED, math.nan, math.nan)
FAST, SLOW = [8.0, 8.5, 9.0, 7.5, 8.2], [12.0, 11.0, 12.5, 14.0, 12.2]

any_arm = st.lists(
    st.one_of(
        st.floats(0.1, 1e6).map(reached),
        st.floats(1.0, 1e3).map(lambda value: reached(value, 0.5)),
        st.floats(0.0, 1e6).map(censored),
        st.sampled_from([DIVERGED, FAILED, censored(math.nan), Observation(Outcome.REACHED, math.nan, 1.0)]),
    ),
    max_size=6,
)


def arm(values, width=0.0):
    return [reached(value, width) for value in values]


def test_the_ratio_and_its_interval_are_welchs_on_the_log():
    result = compare(arm(FAST), arm(SLOW))
    expected: Any = stats.ttest_ind(np.log(SLOW), np.log(FAST), equal_var=False)
    interval = expected.confidence_interval()
    assert result.ratio == pytest.approx(stats.gmean(SLOW) / stats.gmean(FAST))
    assert result.p_welch == pytest.approx(expected.pvalue)
    assert (result.interval.low, result.interval.high) == pytest.approx(
        (math.exp(interval.low), math.exp(interval.high))
    )
    assert (result.verdict, result.interval.label) == (Verdict.SLOWER, "Welch t on log 95 %")


def test_swapping_the_arms_inverts_the_ratio_and_keeps_every_p():
    there, back = compare(arm(FAST), arm(SLOW)), compare(arm(SLOW), arm(FAST))
    assert back.ratio == pytest.approx(1 / there.ratio)
    assert back.verdict is Verdict.FASTER
    assert (back.p_welch, back.p_permutation) == pytest.approx((there.p_welch, there.p_permutation))


def test_the_permutation_test_is_exact_and_two_sided():
    """Five against five without overlap: 2 of 252 partitions are as extreme."""
    result = compare(arm(FAST), arm(SLOW))
    assert (result.p_permutation, result.permutation_exact) == (pytest.approx(2 / 252), True)
    assert compare(arm(FAST[:3]), arm(SLOW[:3])).p_permutation == pytest.approx(0.1)


def test_the_permutation_test_agrees_with_scipys():
    a, b = [3.0, 4.0, 7.0, 9.0], [5.0, 8.0, 10.0, 6.0]
    expected = stats.permutation_test(
        (np.log(a), np.log(b)), lambda x, y, axis: y.mean(axis=axis) - x.mean(axis=axis), vectorized=True
    )
    assert compare(arm(a), arm(b)).p_permutation == pytest.approx(expected.pvalue)


def test_large_arms_are_permuted_by_drawing_and_say_so():
    rng = np.random.default_rng(0)
    result = compare(arm(rng.lognormal(0, 0.1, 12)), arm(rng.lognormal(0.02, 0.1, 12)))
    assert not result.permutation_exact
    assert result.p_permutation == pytest.approx(result.p_welch, abs=0.02)


def test_not_different_needs_the_margin():
    """Equal means: spread decides between 'equivalent' and 'not established'."""
    tight, loose = arm([10, 10.1, 9.9, 10.05, 9.95]), arm([10, 14, 7, 12, 8.5])
    assert compare(tight, tight).verdict is Verdict.EQUIVALENT
    assert compare(loose, loose).verdict is Verdict.NOT_ESTABLISHED


def test_equivalence_is_two_one_sided_tests():
    a, b = np.array([10, 10.2, 9.9, 10.1, 9.8]), np.array([10.3, 10.1, 10.4, 10.2, 10.0])
    upper: Any = stats.ttest_ind(np.log(b), np.log(a * 1.1), equal_var=False, alternative="less")
    lower: Any = stats.ttest_ind(np.log(b), np.log(a / 1.1), equal_var=False, alternative="greater")
    result = compare(arm(a), arm(b))
    assert result.p_equivalence == pytest.approx(max(upper.pvalue, lower.pvalue))
    assert result.verdict is Verdict.EQUIVALENT
    assert compare(arm(a), arm(b), margin=0.01).verdict is not Verdict.EQUIVALENT


def test_a_real_difference_inside_the_margin_is_called_equivalent():
    a = arm([10, 10.01, 9.99, 10.02, 9.98])
    b = arm([10.5, 10.51, 10.49, 10.52, 10.48])
    assert compare(a, b).p_welch < 1e-6
    assert compare(a, b).verdict is Verdict.EQUIVALENT


def test_right_edges_of_a_coarse_grid_do_not_flatter_the_slower_arm():
    """Crossings anywhere in (3.5, 4] and (7.5, 8] are in ratio 7.75 / 3.75, not 8 / 4."""
    assert compare(arm([4] * 5, 0.5), arm([8] * 5, 0.5)).ratio == pytest.approx(7.75 / 3.75)


def test_ties_on_one_evaluation_leave_the_error_of_the_grid():
    """No number of seeds that all cross at one evaluation tells where in the bracket they cross."""
    result = compare(arm([4] * 5, 0.5), arm([4] * 5, 0.5))
    assert result.interval.high > 1 + 0.5 / 3.75 / math.sqrt(12)
    exact = compare(arm([4] * 5), arm([4] * 5))
    assert (exact.interval.low, exact.interval.high, exact.verdict) == (1.0, 1.0, Verdict.EQUIVALENT)


def test_one_trial_an_arm_borrows_the_pooled_spread_or_establishes_nothing():
    spread = PooledSpread(0.1, 20, 0.5, 8)
    result = compare(arm([8]), arm([12]), spread=spread)
    t = math.log(1.5) / (0.1 * math.sqrt(2))
    assert result.p_welch == pytest.approx(2 * stats.t.sf(t, 20))
    assert compare(arm([8]), arm([12])).verdict is Verdict.NOT_ESTABLISHED
    assert compare(arm([8]), arm([12])).interval.is_everything
    assert compare(arm([8]), arm([12])).reason == "1 against 1 trial cannot reach 5 % by ranks"


def test_pairing_over_seeds_is_used_where_the_correlation_pays():
    rng = np.random.default_rng(1)
    seed_effect = rng.normal(0, 0.3, 6)
    a = np.exp(seed_effect + rng.normal(0, 0.01, 6))
    b = 1.1 * np.exp(seed_effect + rng.normal(0, 0.01, 6))
    result = compare(arm(a), arm(b), same_seeds=True)
    expected: Any = stats.ttest_rel(np.log(b), np.log(a))
    assert (result.paired, result.verdict) == (True, Verdict.SLOWER)
    assert result.p_welch == pytest.approx(expected.pvalue)
    assert result.correlation == pytest.approx(np.corrcoef(np.log(a), np.log(b))[0, 1])
    assert not compare(arm(a), arm(b)).paired
    assert not compare(arm(a), arm(rng.permutation(b)), same_seeds=True).paired


def test_a_failed_trial_breaks_its_pair_not_the_others():
    a, b = [1.0, 1.5, 2.0, 2.5, 3.0, 1.2], [1.1, 1.65, 2.21, 2.74, 3.3, 1.33]
    broken = compare([*arm(a[:5]), FAILED], arm(b), same_seeds=True)
    assert not broken.paired
    assert broken.correlation == pytest.approx(np.corrcoef(np.log(a[:5]), np.log(b[:5]))[0, 1])


def test_arms_tied_except_for_one_seed_have_a_correlation_of_minus_one_and_are_not_paired():
    """A finished sweep crashed on these: atanh(-1)."""
    a, b = arm([8, 8, 8.5, 8, 8]), arm([7, 7, 6.5, 7, 7])
    result = compare(a, b, same_seeds=True)
    expected: Any = stats.ttest_ind(np.log([7, 7, 6.5, 7, 7]), np.log([8, 8, 8.5, 8, 8]), equal_var=False)
    assert result.correlation == pytest.approx(-1)
    assert (result.paired, result.verdict) == (False, Verdict.FASTER)
    assert result.ratio == pytest.approx(stats.gmean([7, 7, 6.5, 7, 7]) / stats.gmean([8, 8, 8.5, 8, 8]))
    assert result.p == pytest.approx(expected.pvalue)


def test_a_correlation_of_one_pairs_only_where_the_differences_have_a_spread():
    """b is exactly 1.1 a: the differences have no error to judge by, and Welch's decides."""
    a = [8.0, 9.0, 10.0, 11.0, 9.5, 8.5]
    result = compare(arm(a), arm([1.1 * v for v in a]), same_seeds=True)
    assert result.correlation == pytest.approx(1)
    assert not result.paired
    assert result.ratio == pytest.approx(1.1)
    assert result.interval == compare(arm(a), arm([1.1 * v for v in a])).interval
    assert result.interval.low < 1 < result.interval.high


def test_arms_without_any_spread_are_judged_by_ranks_instead_of_a_zero_error():
    """Two against two at 8 and at 7 exactly: nothing is established; five against five is 2 of 252."""
    two = compare(arm([8] * 2), arm([7] * 2))
    assert (two.verdict, two.reason) == (Verdict.NOT_ESTABLISHED, "2 against 2 trials cannot reach 5 % by ranks")
    five = compare(arm([8] * 5), arm([7] * 5))
    assert (five.verdict, five.p) == (Verdict.FASTER, pytest.approx(2 / 252))
    assert five.interval.low == five.interval.high == pytest.approx(7 / 8)


def test_huge_ratios_stay_numbers():
    result = compare(arm([1e-300, 2e-300]), arm([1e300, 2e300]))
    assert result.interval.low <= result.ratio <= result.interval.high
    assert math.isfinite(result.ratio)


def test_seeds_that_only_one_arm_finished_count_unpaired():
    """Three seeds each, of which one is common: 3 against 3, not 1 against 1."""
    a = {0: reached(8), 1: reached(9), 2: reached(10)}
    b = {2: reached(12), 3: reached(13), 4: reached(14)}
    first, second = by_seed(a, b)
    result = compare(first, second, same_seeds=True)
    assert (result.n_a, result.n_b, result.paired) == (3, 3, False)
    assert result.interval == compare(arm([8, 9, 10]), arm([12, 13, 14])).interval
    in_another_order = by_seed({2: reached(1), 0: reached(2)}, {0: reached(3), 2: reached(4)})
    assert in_another_order == ([reached(1), reached(2)], [reached(4), reached(3)])


def test_an_equivalence_has_its_whole_interval_within_the_margin():
    """p = 3 % for the margin is a 90 % interval within it: the 95 % interval printed beside it is not."""
    a = arm([10, 11.1, 9, 10.4, 9.6])
    result = compare(a, a)
    assert 0.025 < result.p_equivalence < 0.05
    assert result.interval.high > 1.1
    assert result.verdict is Verdict.NOT_ESTABLISHED


def test_a_lucky_correlation_of_few_seeds_does_not_pay():
    assert not pairing_pays(0.99, 3)
    assert not pairing_pays(0.6, 5)
    assert pairing_pays(0.95, 5)
    assert pairing_pays(0.5, 40)


def test_holms_correction_is_the_published_example():
    """Holm's steps on .01, .04, .03, .005 (m = 4): .03, .06, .06, .02."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    adjusted = holm([0.01, math.nan, 0.04])
    assert math.isnan(adjusted[1])
    assert [adjusted[0], adjusted[2]] == pytest.approx([0.02, 0.04])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_a_p_nor_reorders_them(p_values):
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    assert sorted(range(len(adjusted)), key=lambda i: (p_values[i], i)) == sorted(
        range(len(adjusted)), key=lambda i: (adjusted[i], p_values[i], i)
    )


def test_the_declared_primary_comparison_is_not_corrected_and_the_others_are():
    weak = compare(arm(FAST), arm([8.9, 9.3, 9.9, 8.4, 9.0]))
    assert 0.01 < weak.p_welch < 0.05
    assert weak.verdict is Verdict.SLOWER
    judged = correct({"primary": weak, "second": weak, "third": weak}, primary="primary")
    assert judged["primary"] == weak
    assert judged["second"].p_adjusted == pytest.approx(2 * weak.p_welch)
    assert judged["second"].corrected_for == 2
    alone = correct({"second": weak, **{str(i): weak for i in range(8)}})
    assert alone["second"].verdict is Verdict.NOT_ESTABLISHED
    assert alone["second"].seeds_needed is not None


def test_regret_is_the_ratio_less_one_and_may_be_negative():
    found = regrets({"cost": (arm(SLOW), arm(FAST)), "gain": (arm(FAST), arm(SLOW))})
    cost, gain = found["cost"], found["gain"]
    assert cost.regret == pytest.approx(stats.gmean(SLOW) / stats.gmean(FAST) - 1)
    assert cost.verdict is Verdict.SLOWER
    assert gain.regret < 0
    assert gain.interval.low < gain.regret < gain.interval.high < 0


def test_a_regret_beside_others_is_judged_by_its_corrected_p():
    weak = arm([8.9, 9.3, 9.9, 8.4, 9.0]), arm(FAST)
    alone = regrets({"rule": weak})["rule"]
    assert alone.verdict is Verdict.SLOWER
    beside = regrets(dict.fromkeys("abcdefgh", weak))["a"]
    assert beside.verdict is Verdict.NOT_ESTABLISHED
    assert beside.p_adjusted == pytest.approx(8 * alone.p_adjusted)
    assert beside.interval == alone.interval


def test_slower_by_a_margin_is_one_sided_and_agrees_with_the_interval():
    for a, b in ((arm(FAST), arm(SLOW)), (arm(FAST), [censored(40)] * 5), (arm(SLOW), arm(FAST))):
        result = compare(a, b)
        for margin in (0.0, 0.05, 0.2, 0.5, 2.0):
            assert (p_slower(a, b, margin) < 0.025) == (result.interval.low > 1 + margin)
    assert math.isnan(p_slower([], arm(FAST), 0.0))


def test_p_mean_below_is_the_one_sided_t_test():
    values = [3.27, 3.28, 3.275, 3.29, 3.26]
    expected: Any = stats.ttest_1samp(values, 3.28, alternative="less")
    assert p_mean_below(values, 3.28) == pytest.approx(expected.pvalue)
    assert p_mean_below([3.0, 3.0], 3.28) == 0
    assert p_mean_below([3.3, 3.3, 3.3], 3.3) == 1
    assert math.isnan(p_mean_below([3.0], 3.28))
    assert math.isnan(p_mean_below([3.0, math.inf], 3.28))


@given(any_arm, any_arm, st.booleans(), st.booleans())
def test_whatever_the_arms_the_comparison_is_honest(a, b, same_seeds, with_spread):
    """Never raises or warns; nothing is claimed from nothing; all of it is JSON."""
    same_seeds = same_seeds and len(a) == len(b)
    spread = PooledSpread(0.1, 20, 0.5, 8) if with_spread else None
    result = compare(a, b, same_seeds=same_seeds, spread=spread)
    assert result.interval.low <= result.interval.high
    if min(result.n_a, result.n_b) == 0:
        assert result.verdict is Verdict.NOT_ESTABLISHED
    if result.verdict in (Verdict.FASTER, Verdict.SLOWER):
        assert result.p_adjusted < 0.05
        assert (result.interval.low > 1) == (result.verdict is Verdict.SLOWER)
        assert (result.interval.high < 1) == (result.verdict is Verdict.FASTER)
    if not with_spread and max(result.n_a, result.n_b) < 2:
        assert result.verdict is Verdict.NOT_ESTABLISHED
    json.dumps(asdict(correct({"a": result, "b": result}, None)["b"]))


def test_arms_tied_but_for_one_seed_each_way_are_compared_although_their_correlation_is_minus_one():
    first = [reached(place, 0.5) for place in (8, 8, 8.5, 8, 8)]
    second = [reached(place, 0.5) for place in (7, 7, 6.5, 7, 7)]
    result = compare(first, second, same_seeds=True)
    assert result.correlation == pytest.approx(-1)
    assert not result.paired
    assert result.verdict is Verdict.FASTER
