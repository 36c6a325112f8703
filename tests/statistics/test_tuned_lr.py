"""The best LR at each TBS and its exponent."""

import math

import pytest

from harness.published.read import read
from harness.statistics.tuned_lr import BestLr, best_lr, lr_exponent

EXPONENTS = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}


def points(table):
    return [BestLr(size, lr, False) for size, lr in table.items()]


def benchmark(name):
    found = next(curve for curve in read("mlperf_means").curves if curve.label == name)
    return points({arm.total_batch_size: arm.lr for arm in found.arms})


def test_the_best_lr_reaches_first_and_ties_give_the_geometric_middle():
    places = {0.1: 9.0, 0.2: 4.0, 0.4: 4.0, 0.8: math.inf}
    assert best_lr(64, places).lr == pytest.approx(math.sqrt(0.08))
    assert not best_lr(64, places).at_edge
    assert best_lr(64, {0.1: 9.0, 0.2: 4.0, 0.4: 5.0}).lr == 0.2


def test_an_optimum_at_the_edge_of_its_grid_is_flagged():
    assert best_lr(64, {0.1: 4.0, 0.2: 5.0, 0.4: 6.0}).at_edge
    assert best_lr(64, {0.1: 6.0, 0.2: 5.0, 0.4: math.inf, 0.8: math.nan}).at_edge is False
    assert best_lr(64, {0.1: 4.0}).at_edge
    never = best_lr(64, {0.1: math.inf, 0.2: math.inf})
    assert (math.isnan(never.lr), never.at_edge) == (True, True)


@pytest.mark.parametrize(("rule", "exponent"), [("none", 0.0), ("sqrt", 0.5), ("linear", 1.0)])
def test_a_rule_followed_exactly_is_the_only_rule_admitted(rule, exponent):
    found = lr_exponent(
        points({size: 0.1 * size**exponent for size in (16, 64, 256, 1024)}), EXPONENTS, grid_factor=2.0
    )
    assert found.exponent == pytest.approx(exponent)
    assert found.admits == (rule,)


@pytest.mark.parametrize(
    ("name", "slope"),
    [("resnet", 0.30), ("bert", 0.56), ("maskrcnn", 0.91), ("retinanet", 0.08), ("rnnt", 0.30), ("flux1", 0.30)],
)
def test_published_sweeps_have_the_published_exponents(name, slope):
    """Log-log slopes of base LR against batch over MLPerf reference points."""
    assert lr_exponent(benchmark(name), EXPONENTS).exponent == pytest.approx(slope, abs=0.01)


def test_a_rule_with_another_exponent_is_admitted_by_that_exponent():
    line = points({size: 0.1 * size ** (1 / 3) for size in (16, 64, 256, 1024)})
    assert lr_exponent(line, {**EXPONENTS, "cube_root": 1 / 3}).admits == ("cube_root",)
    assert lr_exponent(line, EXPONENTS).admits == ()


def test_resnets_lars_follows_none_of_the_three_rules():
    found = lr_exponent(benchmark("resnet"), EXPONENTS)
    assert found.interval.low > 0
    assert found.interval.high < 0.5
    assert found.admits == ()


def test_a_coarse_lr_grid_widens_the_interval():
    """An LR known to a factor of 4 cannot fix an exponent over an eightfold range, however straight the points."""
    line = points({16: 0.1, 32: 0.1, 64: 0.1, 128: 0.1})
    assert lr_exponent(line, EXPONENTS, 1.0).admits == ("none",)
    assert set(lr_exponent(line, EXPONENTS, 4.0).admits) == {"none", "sqrt", "linear"}


def test_points_at_an_edge_are_left_out_and_named():
    found = lr_exponent([*points({16: 0.1, 64: 0.2, 256: 0.4}), BestLr(1024, 0.4, True)], EXPONENTS)
    assert found.exponent == pytest.approx(0.5)
    assert (found.points, found.left_out) == (3, (1024,))


@pytest.mark.parametrize("table", [{}, {16: 0.1}, {16: 0.1, 64: 0.2}], ids=["none", "one", "two"])
def test_below_three_points_no_rule_is_excluded(table):
    assert set(lr_exponent(points(table), EXPONENTS).admits) == {"none", "sqrt", "linear"}


def test_an_lr_that_meets_the_target_before_training_is_the_best_and_a_broken_point_is_left_out():
    assert best_lr(64, {0.1: 3.0, 0.2: 0.0, 0.4: 2.0}).lr == 0.2
    broken = [BestLr(1024, math.inf, False), BestLr(2048, math.nan, False)]
    found = lr_exponent([*points({16: 0.1, 64: 0.2, 256: 0.4}), *broken], EXPONENTS)
    assert (found.points, found.left_out) == (3, (1024, 2048))
    one_size_twice = [*points({16: 0.1}), *points({16: 0.2})]
    assert math.isnan(lr_exponent(one_size_twice, EXPONENTS).exponent)
