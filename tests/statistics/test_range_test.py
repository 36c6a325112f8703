"""Bounds of a range test are those of the curve, wherever it lies and whatever unit its loss has."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.statistics.range_test import WINDOW, range_bounds

LRS = np.geomspace(1e-3, 10, 81)


def valley(best: float, depth: float = 2.0) -> np.ndarray:
    """log loss: flat, falls by `depth` around best / 10, and comes back at 10 x best."""
    x = np.log10(LRS / best)
    return np.exp(-depth / (1 + np.exp(-6 * (x + 1))) + depth / (1 + np.exp(-6 * (x - 1))))


def test_the_places_of_a_known_valley_are_found():
    found = range_bounds(LRS.tolist(), valley(0.3).tolist(), blew_up=False)
    assert found.best == pytest.approx(0.3, rel=0.1)
    assert found.steepest == pytest.approx(0.03, rel=0.1)
    assert found.diverges == pytest.approx(3.0, rel=0.1)
    assert found.begins == pytest.approx(0.3 * 10 ** (-1 - math.log(9) / 6), rel=0.15)


@given(scale=st.floats(0.01, 100), best=st.floats(0.05, 0.8), depth=st.floats(0.5, 4))
def test_the_bounds_do_not_depend_on_the_unit_of_the_loss_and_come_in_order(scale, best, depth):
    one = range_bounds(LRS.tolist(), valley(best, depth).tolist(), blew_up=False)
    other = range_bounds(LRS.tolist(), (scale * valley(best, depth)).tolist(), blew_up=False)
    assert (other.begins, other.best, other.diverges) == (one.begins, one.best, one.diverges)
    assert one.begins <= one.steepest <= one.best < one.diverges


def test_noise_between_evaluations_moves_the_minimum_by_less_than_the_window():
    noise = np.random.default_rng(0).normal(0, 0.05, len(LRS))
    found = range_bounds(LRS.tolist(), (valley(0.3) * np.exp(noise)).tolist(), blew_up=False)
    assert abs(math.log(found.best / 0.3)) <= 2 * WINDOW * math.log(LRS[1] / LRS[0])


def test_a_run_that_blows_up_diverges_where_its_losses_end():
    losses = [float(loss) if lr < 1 else math.nan for lr, loss in zip(LRS, valley(0.3), strict=True)]
    found = range_bounds(LRS.tolist(), losses, blew_up=True)
    assert found.diverges == pytest.approx(1.0, rel=0.15)
    assert found.best == pytest.approx(0.3, rel=0.1)


def test_a_loss_that_still_falls_at_the_end_diverges_nowhere():
    found = range_bounds(LRS.tolist(), (1 / LRS).tolist(), blew_up=False)
    assert found.best == LRS[-1]
    assert math.isinf(found.diverges)


@pytest.mark.parametrize("losses", [LRS.tolist(), [1.0] * 81, [math.nan] * 81])
def test_a_loss_that_never_falls_has_no_useful_range(losses):
    found = range_bounds(LRS.tolist(), losses, blew_up=False)
    assert math.isnan(found.best)
    assert math.isnan(found.steepest)


def test_a_value_that_stands_still_is_read_once():
    twice = range_bounds(np.repeat(LRS, 2).tolist(), np.repeat(valley(0.3), 2).tolist(), blew_up=False)
    assert twice == range_bounds(LRS.tolist(), valley(0.3).tolist(), blew_up=False)
    assert math.isnan(range_bounds([], [], blew_up=False).best)
