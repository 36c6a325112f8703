"""LR-scaling rules reproduce the published cases, and at the base batch size every rule is none."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.plan.errors import UserError
from harness.plan.scaling import RULES, lr_factor

ratios = st.floats(1e-3, 1e5)


@pytest.mark.parametrize(("rule", "peak_lr"), [("none", 0.1), ("sqrt", 0.5657), ("linear", 3.2)])
def test_the_three_rules_of_goyal_at_32_times_the_batch(rule, peak_lr):
    assert 0.1 * lr_factor(rule, 8192 / 256) == pytest.approx(peak_lr, abs=5e-5)


@pytest.mark.parametrize(("rule", "peak_lr"), [("none", 0.4), ("sqrt", 1.131), ("linear", 3.2)])
def test_the_three_rules_at_smiths_8_times_the_batch(rule, peak_lr):
    assert 0.4 * lr_factor(rule, 1024 / 128) == pytest.approx(peak_lr, abs=5e-4)


@pytest.mark.parametrize("rule", [*RULES, "power"])
def test_at_the_base_batch_size_every_rule_leaves_the_lr_alone(rule):
    assert lr_factor(rule, 1.0, power=0.3) == 1.0


@given(ratios, ratios)
def test_scaling_twice_is_scaling_once_by_the_product(first, second):
    for rule in [*RULES, "power"]:
        twice = lr_factor(rule, first, power=0.3) * lr_factor(rule, second, power=0.3)
        assert twice == pytest.approx(lr_factor(rule, first * second, power=0.3), rel=1e-9)


@given(ratios)
def test_the_named_rules_are_powers_0_half_and_1(ratio):
    for rule, power in (("none", 0.0), ("sqrt", 0.5), ("linear", 1.0)):
        assert lr_factor(rule, ratio) == pytest.approx(lr_factor("power", ratio, power=power))


@pytest.mark.parametrize(
    ("rule", "ratio", "power", "words"),
    [
        ("cubic", 4, None, "unknown lr_scaling rule 'cubic': use one of none, sqrt, linear, adascale, power"),
        ("power", 4, None, "needs lr_scaling.power"),
        ("power", 4, math.nan, "needs lr_scaling.power"),
        ("sqrt", 0, None, "must be > 0, not 0"),
        ("sqrt", math.inf, None, "must be > 0, not inf"),
        ("sqrt", math.nan, None, "must be > 0, not nan"),
    ],
)
def test_nonsense_is_refused(rule, ratio, power, words):
    with pytest.raises(UserError) as refusal:
        lr_factor(rule, ratio, power)
    assert words in str(refusal.value)


def test_a_rule_of_ones_own_is_named_by_its_dotted_path():
    assert lr_factor("math.log2", 8.0) == 3.0


@pytest.mark.parametrize("rule", ["math.nothing", "no_such_module.rule", "math.pi", ".sqrt"])
def test_a_dotted_path_that_is_no_function_is_refused(rule):
    with pytest.raises(UserError, match=r"cannot be imported|is no function"):
        lr_factor(rule, 2.0)
