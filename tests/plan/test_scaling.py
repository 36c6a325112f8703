"""LR-scaling rules reproduce the published cases, and at the base batch size every rule is none."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import WORKLOAD

from harness.plan.design import Design
from harness.plan.errors import UserError
from harness.plan.scaling import (
    ADASCALE,
    BUILT_IN,
    CLASSIC,
    Rule,
    exponents_of,
    power_rule,
    reference_rules,
    rule_named,
)

ratios = st.floats(1e-3, 1e5)
RULES = [*BUILT_IN.values(), power_rule(0.3)]
CUBE_ROOT = Rule("cube_root", lambda k: k ** (1 / 3), 1 / 3, "mine")


@pytest.mark.parametrize(("rule", "peak_lr"), [("none", 0.1), ("sqrt", 0.5657), ("linear", 3.2)])
def test_the_three_rules_of_goyal_at_32_times_the_batch(rule, peak_lr):
    assert 0.1 * rule_named(rule).factor(8192 / 256) == pytest.approx(peak_lr, abs=5e-5)


@pytest.mark.parametrize(("rule", "peak_lr"), [("none", 0.4), ("sqrt", 1.131), ("linear", 3.2)])
def test_the_three_rules_at_smiths_8_times_the_batch(rule, peak_lr):
    assert 0.4 * rule_named(rule).factor(1024 / 128) == pytest.approx(peak_lr, abs=5e-4)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_at_the_base_batch_size_every_rule_leaves_the_lr_alone(rule):
    assert rule.factor(1.0) == 1.0


@given(ratios, ratios)
def test_scaling_twice_is_scaling_once_by_the_product(first, second):
    for rule in RULES:
        twice = rule.factor(first) * rule.factor(second)
        assert twice == pytest.approx(rule.factor(first * second), rel=1e-9)


@given(ratios)
def test_a_rule_with_an_exponent_is_that_power(ratio):
    assert exponents_of(RULES) == {"none": 0.0, "sqrt": 0.5, "linear": 1.0, "power(0.3)": 0.3}
    for rule in RULES:
        if rule.exponent is not None:
            assert rule.factor(ratio) == pytest.approx(power_rule(rule.exponent).factor(ratio))


def test_a_power_is_named_with_its_exponent_and_that_name_gives_it_again():
    rule = rule_named("power", 0.75)
    assert rule.name == "power(0.75)"
    assert rule_named(rule.name) == rule
    assert rule_named("power(-0.5)").factor(4) == 0.5


@pytest.mark.parametrize(
    ("name", "power", "words"),
    [
        ("cubic", None, "unknown lr_scaling rule 'cubic': choose one of none, sqrt, linear, adascale, power, or give"),
        ("power", None, "needs lr_scaling.power"),
        ("power", math.nan, "needs lr_scaling.power"),
        ("power(nan)", None, "needs lr_scaling.power"),
        ("power(x)", None, "lr_scaling rule 'power(x)' needs a number, like power(0.75)"),
    ],
)
def test_an_unknown_name_is_refused(name, power, words):
    with pytest.raises(UserError) as refusal:
        rule_named(name, power)
    assert words in str(refusal.value)


@pytest.mark.parametrize(("ratio", "words"), [(0, "not 0"), (math.inf, "not inf"), (math.nan, "not nan")])
def test_a_ratio_that_is_no_number_above_0_is_refused(ratio, words):
    with pytest.raises(UserError, match=f"must be > 0, {words}"):
        rule_named("sqrt").factor(ratio)


def test_a_rule_of_ones_own_is_named_by_its_dotted_path():
    rule = rule_named("math.log2")
    assert (rule.name, rule.exponent, rule.source, rule.factor(8.0)) == ("math.log2", None, "math.log2", 3.0)


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """own_rules.py on the path: rules as a user writes them, some of them wrong."""
    (tmp_path / "own_rules.py").write_text(
        "from harness.plan.scaling import Rule\n"
        "cube_root = Rule('cube_root', lambda k: k ** (1 / 3), 1 / 3)\n"
        "cited = Rule('cited', lambda k: k ** 0.25, 0.25, 'Some paper')\n"
        "taken = Rule('sqrt', lambda k: k ** 0.5)\n"
    )
    (tmp_path / "wrong_rules.py").write_text(
        "from harness.plan.scaling import Rule\ncube_root = Rule('cube_root', lambda k: k ** (1 / 3), 0.5)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("own_rules", "wrong_rules"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.usefixtures("own_module")
def test_a_rule_of_ones_own_keeps_its_name_and_exponent_and_its_path_is_its_source():
    rule = rule_named("own_rules.cube_root")
    assert (rule.name, rule.exponent, rule.source) == ("cube_root", 1 / 3, "own_rules.cube_root")
    assert rule.factor(8) == pytest.approx(2)
    assert rule_named("own_rules.cited").source == "Some paper"


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("math.nothing", "cannot be imported"),
        ("no_such_module.rule", "cannot be imported"),
        (".sqrt", "cannot be imported"),
        ("math.pi", "is not a Rule or a function of k"),
        ("own_rules.taken", "has the name of a built-in rule, 'sqrt'"),
        ("wrong_rules.cube_root", r"has exponent 0.5, but its function grows as k\*\*0.333"),
    ],
)
def test_a_dotted_path_that_gives_no_rule_is_refused_in_one_line(path, words):
    with pytest.raises(UserError, match=words) as refusal:
        rule_named(path)
    assert "\n" not in str(refusal.value)


def fails(k: float) -> float:
    raise LookupError(f"no LR\nfor {k}")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (fails, "LR rule mine fails at k = 4: "),
        (lambda k: -k, "LR rule mine gives -4 at k = 4"),
        (lambda k: math.nan, "LR rule mine gives nan at k = 4"),
        (lambda k: math.inf, "LR rule mine gives inf at k = 4"),
        (lambda k: None, "LR rule mine fails at k = 4: TypeError"),
    ],
)
def test_a_function_that_gives_no_lr_is_refused_in_one_line_when_an_arm_is_planned(function, words):
    rule = Rule("mine", function)
    with pytest.raises(UserError) as refusal:
        WORKLOAD.arm(rule, 4 * WORKLOAD.base_batch_size)
    assert str(refusal.value).startswith(words)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["", "cube root", "a/b", "a|b", "a,b", "3rd", "tuned", "grid", "low"])
def test_a_name_that_tables_cannot_hold_is_refused(name):
    with pytest.raises(UserError, match="an LR rule"):
        Rule(name, math.sqrt)


def test_a_design_compares_different_rules_and_no_controller_with_a_rule():
    def design(*rules: Rule) -> Design:
        return Design(WORKLOAD, rules, (0,))

    assert design(CUBE_ROOT, *CLASSIC).scaling_rules == ("cube_root", "none", "sqrt", "linear")
    assert design(ADASCALE).scaling_rules == ("adascale",)
    for rules, words in (
        ((), "lr_scaling.rules is empty"),
        ((CUBE_ROOT, replace(CUBE_ROOT, exponent=None)), "lr_scaling.rules must differ"),
        ((CUBE_ROOT, ADASCALE), "give it its own study, lr_scaling=adascale"),
    ):
        with pytest.raises(UserError, match=words):
            design(*rules)


def test_what_is_measured_is_compared_with_the_classic_rules_and_the_studys_own():
    assert reference_rules(CLASSIC) == CLASSIC
    assert reference_rules([CUBE_ROOT, CLASSIC[1]]) == (*CLASSIC, CUBE_ROOT)


def test_an_arm_has_the_lr_and_the_name_of_its_rule_or_the_lr_and_the_label_it_is_given():
    arm = WORKLOAD.arm(CUBE_ROOT, 8 * WORKLOAD.base_batch_size)
    assert (arm.scaling_rule, arm.settings.peak_lr) == ("cube_root", pytest.approx(0.2))
    given = WORKLOAD.arm_at_lr(0.2, 8 * WORKLOAD.base_batch_size, label="grid")
    assert (given.scaling_rule, given.settings.peak_lr) == ("grid", 0.2)
    assert WORKLOAD.arm("sqrt", 64) == WORKLOAD.arm(rule_named("sqrt"), 64)
