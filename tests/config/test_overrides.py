"""Every spelling of a key with dots, stars and brackets on the command line gives the same mapping."""

import pytest

from harness.config.compose import compose_config
from harness.config.configuration import Configuration
from harness.plan.errors import UserError
from harness.plan.parameter_groups import ParameterGroups
from harness.plan.target import Target


def composed(*overrides: str) -> Configuration:
    return compose_config(["+experiment=tbs_sweep", *overrides])


def groups(*overrides: str) -> ParameterGroups:
    return composed(*overrides).parameter_groups


WRITTEN = {
    "parameter_groups.lr_factors={a.*: 10}": ("a.*", 10),
    "parameter_groups.lr_factors={b.*:10}": ("b.*", 10),
    "parameter_groups.lr_factors={'c.*': 10}": ("c.*", 10),
    'parameter_groups.lr_factors={"d.*": 1e-1}': ("d.*", 0.1),
    "parameter_groups.lr_factors.e.*=10": ("e.*", 10),
    "parameter_groups.lr_factors.'f.*'=10": ("f.*", 10),
    "parameter_groups={lr_factors: {g.*: 10}}": ("g.*", 10),
    "parameter_groups.lr_factors={layers.0.weight: 2}": ("layers.0.weight", 2),
    "parameter_groups.lr_factors.layers.1.weight=2": ("layers.1.weight", 2),
    "parameter_groups.lr_factors={*.bias: 2}": ("*.bias", 2),
    "parameter_groups.lr_factors={blocks.[0-3].*: 2}": ("blocks.[0-3].*", 2),
    "parameter_groups.lr_factors.blocks.[45].?=2": ("blocks.[45].?", 2),
    "parameter_groups.lr_factors={0.weight: 2}": ("0.weight", 2),
    "parameter_groups.lr_factors={}": None,
}


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_a_pattern_is_a_key_in_every_spelling(plus):
    given = groups(*(plus + written for written in WRITTEN))
    assert given.lr_factors == dict(filter(None, WRITTEN.values()))


def test_a_mapping_may_have_several_patterns():
    given = groups("parameter_groups.lr_factors={head.*: 10, '*.bias': 2, blocks.[0,1].*: 0.5}")
    assert given.lr_factors == {"head.*": 10, "*.bias": 2, "blocks.[0,1].*": 0.5}


@pytest.mark.parametrize("written", ["[blocks.[0-3].*,stem.*]", "['blocks.[0-3].*', \"stem.*\"]"])
def test_patterns_in_a_list_need_no_quotes(written):
    assert groups(f"parameter_groups.frozen={written}").frozen == ["blocks.[0-3].*", "stem.*"]
    whole = groups(f"parameter_groups={{frozen: {written}, no_decay_on_norms_and_biases: true}}")
    assert (whole.frozen, whole.no_decay_on_norms_and_biases) == (["blocks.[0-3].*", "stem.*"], True)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (".lr_factors={head.*: fast}", r"lr_factors\.head\.\* must be a number, not fast"),
        (".lr_factors={head.*: 2, head.*: 3}", r"lr_factors has 'head\.\*' twice: give it once"),
        (".lr_factors={a.[!0].*: 2}", "takes no pattern with !, like 'a.*': put it into a file"),
        (".lr_factors={head.*=2}", "cannot read .* a mapping as {key: value}"),
        (".lr_factors={head.*:", "{ and } do not match"),
        (".lr_factors=[head.*]", "must be a mapping like {key: value}"),
        (".lr_factor={head.*: 2}", r"did you mean 'parameter_groups\.lr_factors'\?"),
        ("={lr_factor: {head.*: 2}}", r"did you mean 'parameter_groups\.lr_factors'\?"),
        (".frozen=head.*", r"must be a list of strings, not head\.\*: write parameter_groups\.frozen=\[head\.\*\]"),
    ],
)
def test_a_mistake_in_a_pattern_is_told_in_one_line(written, words):
    with pytest.raises(UserError, match=words) as refused:
        groups(f"parameter_groups{written}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("plus", ["", "+"])
def test_a_second_target_is_given_where_the_workload_has_none(plus):
    given = f"{plus}workload.read_beside={{metric: accuracy, value: 0.3, mode: max, confirm: 1}}"
    config = composed("workload=stdlib_text_gpt", given)
    assert config.workload.read_beside == Target("accuracy", 0.3, "max", 1)
    of_digits = composed(f"{plus}workload.read_beside.value=0.5").workload.read_beside
    assert of_digits is not None
    assert (of_digits.metric, of_digits.value) == ("loss", 0.5)
