"""Monotone regression on log length, inverted at the target, with an interval that holds the truth."""

import math

import numpy as np
import pytest

from harness.statistics.monotone import met_length


def test_without_noise_the_crossing_is_interpolated_in_log_length():
    finals = {4: [0.90] * 3, 16: [0.94] * 3, 64: [0.98] * 3}
    found = met_length(finals, 0.96, "max")
    assert found.length == pytest.approx(32)
    assert (found.low, found.high) == pytest.approx((32, 32))
    losses = {n: [1 - value for value in values] for n, values in finals.items()}
    assert met_length(losses, 0.04, "min").length == pytest.approx(32)


def test_a_median_out_of_order_is_averaged_away():
    found = met_length({4: [0.9], 8: [0.96], 16: [0.94], 32: [0.98]}, 0.95, "max")
    assert found.fitted == pytest.approx({4: 0.9, 8: 0.95, 16: 0.95, 32: 0.98})
    assert found.length == pytest.approx(8)


def test_a_target_never_met_has_no_length_and_one_met_at_once_the_shortest():
    assert met_length({4: [0.5], 8: [0.6]}, 0.9, "max").length == math.inf
    assert met_length({4: [0.95], 8: [0.96]}, 0.9, "max").length == 4


def test_the_interval_of_a_target_never_met_begins_at_the_longest_length_tried():
    """Not at infinity: nothing longer was tried."""
    found = met_length({4: [0.5, 0.51, 0.5], 8: [0.6, 0.61, 0.6]}, 0.9, "max")
    assert (found.length, found.low, found.high) == (math.inf, 8, math.inf)
    at_once = met_length({4: [0.95, 0.96, 0.95], 8: [0.97] * 3}, 0.9, "max")
    assert (at_once.length, at_once.low, at_once.high) == (4, 0, 4)  # a shorter one might do


def test_one_seed_a_length_has_no_interval():
    found = met_length({4: [0.90], 8: [0.96]}, 0.93, "max")
    assert (found.low, found.high) == (0, math.inf)
    assert met_length({}, 0.9, "max").length == math.inf


def test_a_length_that_diverged_does_not_meet_the_target_of_the_others():
    found = met_length({4: [-math.inf] * 3, 8: [0.98] * 3}, 0.95, "max")
    assert found.length == 8


def test_divergence_is_the_worst_value_and_not_an_error():
    found = met_length({4: [-math.inf] * 3, 8: [0.9] * 3, 16: [0.98] * 3}, 0.95, "max")
    assert 8 < found.length < 16


def test_the_bootstrap_interval_holds_the_true_length_most_of_the_time():
    truth, hits = 20.0, 0
    for i in range(20):
        draw = np.random.default_rng(i)
        finals = {
            n: (0.95 + 0.03 * math.log2(n / truth) + draw.normal(0, 0.01, 5)).tolist() for n in (8, 16, 20, 25, 32)
        }
        found = met_length(finals, 0.95, "max")
        hits += found.low <= truth <= found.high
    assert hits >= 16
