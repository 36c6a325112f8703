"""The curves: written by their rise, they are the textbook formulas."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.statistics.fit_models import EXPONENTS, Model, Shapes, all_shapes, shapes

SIZES = np.array([16.0, 64, 128, 256, 512])


def one(model, share, exponent=1.0):
    return Shapes(model, 16.0, 512.0, np.array([share]), np.array([exponent]))


@given(st.floats(0.01, 0.99))
def test_the_hyperbola_is_e_min_times_one_plus_b_over_b_crit(share):
    shape = one(Model.HYPERBOLA, share)
    critical = shape.critical()[0]
    expected = np.log((1 + SIZES / critical) / (1 + 16 / critical))
    assert shape.log_curve(SIZES)[0] == pytest.approx(expected, abs=1e-9)
    parameters = shape.parameters(examples_per_unit=1000.0)
    assert parameters["E_min"][0][0] == pytest.approx(1 / (1 + 16 / critical))
    assert parameters["S_min"][0][0] == pytest.approx(1000 * parameters["E_min"][0][0] / critical)


@given(st.floats(0.01, 0.99), st.floats(0.25, 4))
def test_the_generalised_hyperbola_has_an_exponent_on_b_over_b_c(share, a):
    shape = one(Model.GENERALISED, share, a)
    critical = shape.critical()[0]
    expected = np.log((1 + (SIZES / critical) ** a) / (1 + (16 / critical) ** a))
    assert shape.log_curve(SIZES)[0] == pytest.approx(expected, abs=1e-6)


def test_with_exponent_one_it_is_the_hyperbola():
    generalised, plain = one(Model.GENERALISED, 0.4), one(Model.HYPERBOLA, 0.4)
    assert generalised.log_curve(SIZES) == pytest.approx(plain.log_curve(SIZES))
    assert generalised.critical() == pytest.approx(plain.critical())


def test_the_log_linear_curve_adds_the_same_for_every_doubling():
    shape = one(Model.LOG_LINEAR, 0.6)
    values = np.exp(shape.log_curve(np.array([16.0, 32, 64, 128, 256, 512]))[0])
    assert np.diff(values) == pytest.approx(shape.parameters(1.0)["rise_per_doubling"][0][0])


def test_the_power_law_is_straight_in_logs():
    shape = one(Model.POWER_LAW, 0.6)
    slopes = np.diff(shape.log_curve(SIZES)[0]) / np.diff(np.log(SIZES))
    assert slopes == pytest.approx(shape.parameters(1.0)["exponent"][0][0])


def test_the_ends_of_the_hyperbola_are_no_rise_and_pure_proportion():
    ends = shapes(Model.HYPERBOLA, 16, 512, np.array([0.0, 1.0]))
    assert ends.critical().tolist() == [math.inf, 0.0]
    assert ends.log_curve(SIZES) == pytest.approx(np.stack([np.zeros(5), np.log(SIZES / 16)]))
    assert ends.parameters(1000.0)["S_min"][0].tolist() == pytest.approx([0.0, 1000 / 16])
    assert ends.parameters(1.0)["E_min"][0].tolist() == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize("model", list(Model))
@given(share=st.floats(0.3, 0.9), overhead=st.floats(0.05, 1.0), reference=st.sampled_from([16.0, 40.0, 300.0]))
def test_at_the_overheads_size_the_curve_has_that_overhead(model, share, overhead, reference):
    shape = one(model, share, 1.0)
    size = shape.size_at(overhead, reference)[0]
    there, here = np.exp(shape.log_curve(np.array([size, reference]))[0])
    assert there / here == pytest.approx(1 + overhead, rel=1e-6)


def test_the_hyperbolas_overhead_size_is_the_printed_formula():
    shape = one(Model.HYPERBOLA, 0.5)
    assert shape.size_at(0.2, 64.0)[0] == pytest.approx(1.2 * 64 + 0.2 * shape.critical()[0])


@pytest.mark.parametrize("model", list(Model))
def test_a_curve_that_does_not_rise_never_has_the_overhead(model):
    flat = {Model.HYPERBOLA: 0.0, Model.GENERALISED: 0.0}.get(model, 0.01)  # the last two: falling
    assert one(model, flat).size_at(0.2, 16.0)[0] == math.inf


def test_values_at_the_end_of_a_grid_are_open():
    """What lies beyond the grid was never looked at: an interval must not seem to end there."""
    exponents = all_shapes(Model.GENERALISED, 16, 512).parameters(1.0)["exponent"][0]
    assert (exponents.min(), exponents.max()) == (0.0, math.inf)
    assert sorted(set(exponents))[1] == pytest.approx(EXPONENTS[1])
    slopes = all_shapes(Model.POWER_LAW, 16, 512).parameters(1.0)["exponent"][0]
    assert (slopes.min(), slopes.max()) == (-math.inf, math.inf)
