"""Critical batch sizes by definition, and what is said where the sweep does not reach them."""

import json
import math
import re
from dataclasses import asdict

import numpy as np
import pytest

from harness.plan.outcome import Outcome
from harness.published.read import read
from harness.statistics.critical_batch import (
    Status,
    critical_batch_sizes,
    critical_by_hyperbola,
    critical_by_isotonic,
    critical_by_overhead,
    front,
)
from harness.statistics.estimates import Observation
from harness.statistics.fit_models import Model


def reached(value):
    return Observation(Outcome.REACHED, float(value), float(value))


def censored(stop):
    return Observation(Outcome.CENSORED, math.inf, float(stop))


def synthetic(sizes, critical=150.0, sd=0.02, seeds=3, seed=0):
    rng = np.random.default_rng(seed)
    return {
        size: [reached(4 * (1 + size / critical) * math.exp(sd * rng.standard_normal())) for _ in range(seeds)]
        for size in sizes
    }


def olympic_means(benchmark):
    """One point an arm: the published olympic mean."""
    return next(curve.by_size for curve in read("mlperf_means").curves if curve.label == benchmark)


def resnet_runs():
    return read("mlperf_resnet").curves[0].by_size


def test_the_definitions_differ_by_a_factor_of_four_and_say_so():
    ratio, overhead, isotonic = critical_batch_sizes(resnet_runs())
    assert ratio.value == pytest.approx(47_000, rel=0.02)
    assert overhead.value == pytest.approx(1.2 * 1632 + 0.2 * ratio.value)
    assert "E_min / S_min" in ratio.definition
    assert "1.2 E(1632)" in overhead.definition
    assert "(1 + p) B_ref + p B_crit" in overhead.definition
    assert "isotonic" in isotonic.definition
    assert re.fullmatch(r"47,0\d\d \(41,[23]\d\d to 54,0\d\d, profile likelihood 95 %\)", str(ratio))


def test_twenty_percent_over_resnets_smallest_batch_lies_between_8_192_and_13_056_without_a_model():
    """E(1632) is 34.99 (geometric mean); 1.2 times that is passed between the arms of 41.9 and 45.4 epochs."""
    found = critical_by_isotonic(resnet_runs())
    assert found.status is Status.IDENTIFIED
    assert 4096 < found.value < 13056
    assert found.interval.low <= found.value <= found.interval.high


def test_bert_read_as_runs_and_as_means_gives_one_critical_batch_size():
    """20 runs an arm show a lack of fit that means cannot: it is in the interval, and the number stays."""
    runs, means = (
        critical_by_hyperbola(arms) for arms in (read("mlperf_bert").curves[0].by_size, olympic_means("bert"))
    )
    assert (runs.status, means.status) == (Status.IDENTIFIED, Status.IDENTIFIED)
    assert runs.value == pytest.approx(means.value, rel=0.01)
    assert [runs.interval.low, runs.interval.high] == pytest.approx([means.interval.low, means.interval.high], rel=0.02)
    assert 12_774 in runs.interval


def test_published_means_get_the_arms_next_to_the_crossing():
    found = critical_by_isotonic(olympic_means("bert"))
    assert (found.interval.low, found.interval.high) == (4608, 6144)
    assert str(found) == "5,069 (4,608 to 6,144, arms next to it, no replicates)"


def test_the_isotonic_bracket_is_of_arms_and_not_narrower_than_lack_of_fit():
    """Resampling BERT's seeds claimed 4,846 to 5,200, between two arms and through none."""
    found = critical_by_isotonic(read("mlperf_bert").curves[0].by_size)
    assert (found.interval.low, found.interval.high) == (4608, 6144)
    assert found.interval.coverage == 0.95


@pytest.mark.parametrize("costs", [(12, 8, 6, 5, 4), (4, 4, 4, 4, 4), (5, 4.9, 4.8, 4.7, 4.6)])
@pytest.mark.parametrize("spread", [0.0, 0.05])
def test_a_curve_that_does_not_rise_is_never_at_least_infinity(costs, spread):
    arms = {16 * 4**i: [reached(cost * math.exp(spread * z)) for z in (-1, 0, 1)] for i, cost in enumerate(costs)}
    ratio, overhead, isotonic = critical_batch_sizes(arms)
    for found in (ratio, overhead, isotonic):
        assert found.status in (Status.AT_LEAST, Status.NOT_IDENTIFIED)
        assert found.interval.low <= 2 * 4096
        assert "inf" not in str(found)
    assert str(isotonic) == "at least 4,096"


def test_e_min_over_s_min_names_its_rule():
    assert "E_min / S_min under sqrt of" in critical_batch_sizes(resnet_runs(), rule="sqrt")[0].definition


def test_the_isotonic_crossing_is_log_linear_between_arms():
    arms = {16: [reached(10)] * 3, 64: [reached(10)] * 3, 256: [reached(14.4)] * 3}
    assert critical_by_isotonic(arms, overhead=0.2).value == pytest.approx(128)  # half-way in log, as 12 is


def test_a_dip_is_pooled_not_followed():
    """12 then 11 is one level: the line to 20 starts from there."""
    arms = {16: [reached(10)] * 3, 32: [reached(12)] * 3, 64: [reached(11)] * 3, 128: [reached(20)] * 3}
    pooled = math.sqrt(12 * 11)
    share = math.log(15 / pooled) / math.log(20 / pooled)
    assert critical_by_isotonic(arms, overhead=0.5).value == pytest.approx(64 * 2**share)


def test_an_arm_that_never_reached_bounds_the_crossing():
    arms = {16: [reached(10), reached(10.1)], 64: [reached(10), reached(10.2)], 256: [censored(40)] * 2}
    found = critical_by_isotonic(arms, overhead=0.2)
    assert found.status is Status.IDENTIFIED
    assert 64 < found.value < 128
    low_stop = critical_by_isotonic({**arms, 256: [censored(10.5)] * 2}, overhead=0.2)
    assert low_stop.status is Status.AT_LEAST


@pytest.mark.parametrize("benchmark", ["dlrm_dcnv2", "maskrcnn", "gpt3"])
def test_a_b_crit_beyond_the_swept_range_is_only_bounded_from_below(benchmark):
    arms = olympic_means(benchmark)
    found = critical_by_hyperbola(arms)
    assert found.status is Status.AT_LEAST
    assert math.isnan(found.value)
    assert found.interval.high == math.inf
    assert found.interval.low > max(arms)
    assert str(found).startswith("at least ")


def test_deepseeks_narrow_sweep_does_not_give_926():
    """15,360 to 18,432: the fit's best value is meaningless, and no number is printed for it."""
    found = critical_by_hyperbola(olympic_means("deepseekv3_671b"))
    assert found.status in (Status.AT_MOST, Status.NOT_IDENTIFIED)
    assert math.isnan(found.value)
    assert found.interval.low == 0


@pytest.mark.parametrize("seed", range(10))
def test_a_sweep_that_ends_at_an_eighth_of_b_crit_never_gives_a_tight_number(seed):
    arms = synthetic((2, 4, 8, 16), critical=128, seed=seed)
    found = critical_by_hyperbola(arms)
    assert found.status in (Status.AT_LEAST, Status.NOT_IDENTIFIED)
    assert found.interval.high == math.inf


def test_a_sweep_far_beyond_b_crit_bounds_it_from_above():
    found = critical_by_hyperbola(synthetic((4096, 8192, 16384, 32768), critical=16, seed=1))
    assert found.status is Status.AT_MOST
    assert found.interval.low == 0
    assert str(found).startswith("at most ")


def test_a_sweep_across_b_crit_identifies_it():
    found = critical_by_hyperbola(synthetic((16, 64, 128, 256, 512, 1024)))
    assert found.status is Status.IDENTIFIED
    assert found.value == pytest.approx(150, rel=0.1)
    assert 150 in found.interval


@pytest.mark.parametrize(
    ("model", "curve", "expected"),
    [
        (Model.HYPERBOLA, lambda b: 1 + b / 150, 1.5 * 32 + 0.5 * 150),
        (Model.GENERALISED, lambda b: 1 + (b / 150) ** 1.5, (1.5 * 32**1.5 + 0.5 * 150**1.5) ** (2 / 3)),
        (Model.POWER_LAW, lambda b: b**0.3, 32 * 1.5 ** (1 / 0.3)),
        (Model.LOG_LINEAR, lambda b: math.log2(b), 2 ** (1.5 * 5)),
    ],
)
def test_every_model_can_be_asked_where_it_costs_half_as_much_again(model, curve, expected):
    arms = {b: [reached(curve(b))] * 2 for b in (16, 32, 64, 128, 256, 512, 1024)}
    found = critical_by_overhead(arms, 0.5, 32, model)
    assert found.status is Status.IDENTIFIED
    assert f"1.5 E(32) on the {model}" in found.definition
    assert found.value == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("arms", [{}, {16: []}, {16: [reached(4)] * 3}, {16: [censored(9)], 64: [censored(9)]}])
def test_without_two_arms_nothing_is_identified(arms):
    for found in critical_batch_sizes(arms):
        assert found.status is Status.NOT_IDENTIFIED
        assert str(found) == "not identified"
        json.dumps(asdict(found))


def test_resnets_front_has_its_corner_at_twice_both_minima():
    result = front(resnet_runs(), examples_per_unit=1_281_167)
    critical = critical_by_hyperbola(resnet_runs()).value
    assert result.corner is not None
    assert result.corner.total_batch_size == critical
    minimum = 34.67 * 1_281_167
    assert result.corner.examples == pytest.approx(2 * minimum, rel=1e-3)
    assert result.corner.steps == pytest.approx(2 * minimum / critical, rel=1e-3)
    for point in result.curve:  # McCandlish et al. 2018, equation 2.11
        steps, examples = point.steps / (minimum / critical), point.examples / minimum
        assert (steps - 1) * (examples - 1) == pytest.approx(1, rel=5e-3)
    assert [point.total_batch_size for point in result.arms] == sorted(resnet_runs())
    assert result.arms[-1].steps == pytest.approx(1621, abs=1)


def test_an_arm_that_needs_more_steps_and_more_examples_is_off_the_front():
    result = front({16: [reached(10)] * 2, 32: [reached(40)] * 2, 64: [reached(12)] * 2})
    assert [point.total_batch_size for point in result.dominated] == [32]
    assert [point.total_batch_size for point in result.arms] == [16, 64]
    assert front({16: [reached(10)]}).curve == ()
    assert front({}).corner is None


@pytest.mark.parametrize("places", [(8, 6, 4), (8, 8, 8)], ids=["falling", "flat"])
def test_costs_that_never_rise_bound_no_size_by_infinity(places):
    arms = {16 * 4**i: [Observation(Outcome.REACHED, float(v), v - 0.5)] * 3 for i, v in enumerate(places)}
    for found in critical_batch_sizes(arms):
        assert math.isfinite(found.interval.low)
        assert "inf" not in str(found)


def test_a_reference_that_no_arm_gives_is_named_not_numbered():
    diverged = [Observation(Outcome.DIVERGED, math.inf, 0.0)] * 2
    sizes = critical_batch_sizes({16: diverged, 32: diverged, 64: diverged})
    assert {size.status for size in sizes} == {Status.NOT_IDENTIFIED}
    assert "E(smallest TBS)" in sizes[1].definition
    assert not any("nan" in size.definition for size in sizes)
