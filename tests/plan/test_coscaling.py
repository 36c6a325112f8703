"""Co-scaling reproduces the published cases, changes nothing at the base batch size, refuses what it cannot hold."""

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.plan.coscaling import (
    CHOICES,
    AdaScale,
    CoScaling,
    adascale_gain,
    check_adascale,
    co_scale,
    co_scale_averaging,
    co_scale_warmup,
    half_life_examples,
    timescale_epochs,
)
from harness.plan.errors import UserError
from harness.plan.scaling import rule_named
from harness.plan.settings import Averaging

ADAMW = {"_target_": "torch.optim.AdamW", "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.1}
SGD = {"_target_": "torch.optim.SGD", "momentum": 0.9, "weight_decay": 1e-4}
ADAM_SDE = CoScaling(beta1="sde", beta2="sde", eps="sde")


def scale(optimizer, batch_ratio, choices, *, rule="sqrt", base_lr=1e-3):
    peak_lr = base_lr * rule_named(rule).factor(batch_ratio)
    return co_scale(optimizer, base_lr=base_lr, peak_lr=peak_lr, batch_ratio=batch_ratio, choices=choices)


# --- optimizers


@pytest.mark.parametrize("optimizer", [ADAMW, SGD])
def test_by_default_only_the_lr_changes(optimizer):
    assert scale(optimizer, 8, CoScaling()) == {**optimizer, "lr": 1e-3 * math.sqrt(8)}


def test_the_adam_sde_rule_at_k_4_is_the_published_case():
    scaled = scale(ADAMW, 4, ADAM_SDE)
    assert (scaled["lr"], scaled["betas"], scaled["eps"]) == (2e-3, [0.6, 0.996], 5e-9)


def test_the_adam_sde_rule_at_k_10_ends_the_memory_of_beta1_and_is_refused_beyond():
    assert scale(ADAMW, 10, ADAM_SDE)["betas"] == [0.0, 0.99]
    with pytest.raises(UserError, match=r"turns beta 0\.9 into -0.1 at k = 11: use k <= 10, or co_scaling half_life"):
        scale(ADAMW, 11, ADAM_SDE)
    assert scale(ADAMW, 1000, CoScaling(beta2="sde"))["betas"] == [0.9, 0.0]
    with pytest.raises(UserError, match=r"beta 0\.999 .* k = 1001"):
        scale(ADAMW, 1001, CoScaling(beta2="sde"))
    assert scale({**ADAMW, "betas": [0.95, 0.999]}, 20, CoScaling(beta1="sde"))["betas"] == [0.0, 0.999]


def test_beta2_at_constant_half_life_goes_from_half_a_million_tokens_to_one_thousand():
    assert half_life_examples(0.95, 524_288) == pytest.approx(7.08e6, rel=1e-3)
    scaled = scale({**ADAMW, "betas": [0.9, 0.95]}, 1024 / 524_288, CoScaling(beta2="half_life"))
    assert scaled["betas"] == [0.9, pytest.approx(0.9999, abs=5e-7)]


@given(st.floats(0.01, 0.9999), st.integers(1, 512), st.integers(1, 512))
def test_a_constant_half_life_is_constant_in_examples(decay, base, total):
    scaled = scale({**SGD, "momentum": decay}, total / base, CoScaling(momentum="half_life"))["momentum"]
    if scaled > 1e-12:
        assert half_life_examples(scaled, total) == pytest.approx(half_life_examples(decay, base), rel=1e-6)


@pytest.mark.parametrize("rule", ["none", "sqrt", "linear"])
def test_a_constant_timescale_is_held_under_every_lr_rule(rule):
    before = timescale_epochs(1e-3, 0.1, 32, 50_000)
    scaled = scale(ADAMW, 16, CoScaling(weight_decay="timescale"), rule=rule)
    assert before == pytest.approx(6.4)
    assert timescale_epochs(scaled["lr"], scaled["weight_decay"], 512, 50_000) == pytest.approx(before)
    expected = {"none": 1.6, "sqrt": 0.4, "linear": 0.1}[rule]  # wd grows with the batch where the LR does not
    assert scaled["weight_decay"] == pytest.approx(expected)


def test_without_weight_decay_there_is_nothing_to_hold():
    assert timescale_epochs(0.1, 0.0, 32, 50_000) == math.inf
    assert scale({**SGD, "weight_decay": 0}, 8, CoScaling(weight_decay="timescale"))["weight_decay"] == 0


@pytest.mark.parametrize(("name", "choice"), [(name, choice) for name in CHOICES for choice in CHOICES[name]])
def test_at_the_base_batch_size_every_choice_leaves_everything_alone(name, choice):
    choices = CoScaling(**{name: choice})
    optimizer = {**ADAMW, "momentum": 0.9}
    assert co_scale(optimizer, base_lr=0.3, peak_lr=0.3, batch_ratio=1.0, choices=choices) == {**optimizer, "lr": 0.3}
    averaging = Averaging(256, "averaged")
    assert co_scale_averaging(averaging, batch_ratio=1.0, choices=choices) == averaging
    schedule = {"warmup": {"epochs": 5}}
    assert co_scale_warmup(schedule, batch_ratio=1.0, choices=choices) == schedule


@pytest.mark.parametrize("name", CHOICES)
def test_an_unknown_choice_is_refused_with_the_allowed_ones(name):
    with pytest.raises(UserError) as refusal:
        CoScaling(**{name: "cubic"})
    assert str(refusal.value) == f"unknown co_scaling.{name} 'cubic': choose one of {', '.join(CHOICES[name])}"


@pytest.mark.parametrize(
    ("optimizer", "choices", "words"),
    [
        (ADAMW, CoScaling(momentum="half_life"), "needs optimizer.momentum set to a number"),
        (SGD, CoScaling(beta2="half_life"), "needs optimizer.betas set to two numbers, not None"),
        ({**ADAMW, "betas": [0.9]}, CoScaling(beta2="half_life"), "to two numbers, not [0.9]"),
        (SGD, CoScaling(eps="sde"), "needs optimizer.eps set to a number"),
        ({"_target_": "torch.optim.AdamW"}, CoScaling(weight_decay="timescale"), "needs optimizer.weight_decay"),
        ({**SGD, "momentum": 1.0}, CoScaling(momentum="half_life"), "must be in [0, 1), not 1.0"),
        ({**ADAMW, "betas": [0.9, 1.0]}, ADAM_SDE, "must be in [0, 1), not 1.0"),
        (SGD, CoScaling(momentum="half_life", weight_decay="timescale"), "use co_scaling.momentum=fixed"),
    ],
)
def test_what_cannot_be_scaled_is_refused_and_never_left_at_a_hidden_default(optimizer, choices, words):
    with pytest.raises(UserError) as refusal:
        scale(optimizer, 4, choices)
    assert words in str(refusal.value)


# --- weight average and warm-up


def test_a_weight_average_keeps_its_half_life_in_examples_unless_its_decay_is_fixed_per_update():
    averaging = Averaging(256, "averaged")
    assert co_scale_averaging(averaging, batch_ratio=8, choices=CoScaling()) == averaging
    fixed = co_scale_averaging(averaging, batch_ratio=8, choices=CoScaling(averaging="fixed"))
    assert fixed == Averaging(2048, "averaged")


def test_legw_warms_up_for_k_times_the_epochs():
    schedule = {"_target_": "x.Y", "warmup": {"epochs": 0.5}, "gamma": 0.1}
    assert co_scale_warmup(schedule, batch_ratio=8, choices=CoScaling()) == schedule
    legw = CoScaling(warmup="legw")
    assert co_scale_warmup(schedule, batch_ratio=8, choices=legw) == {**schedule, "warmup": {"epochs": 4.0}}
    assert co_scale_warmup({"gamma": 0.1}, batch_ratio=8, choices=legw) == {"gamma": 0.1}
    with pytest.raises(UserError, match="in epochs, examples or fraction, not in steps"):
        co_scale_warmup({"warmup": {"steps": 100}}, batch_ratio=8, choices=legw)
    with pytest.raises(UserError, match="fraction"):
        co_scale_warmup({"warmup": {"fraction": 0.2}}, batch_ratio=8, choices=legw)


# --- AdaScale


def test_adascale_lies_between_none_and_linear():
    assert adascale_gain(1.0, 1.0, 8) == pytest.approx(1.78, abs=0.005)
    assert adascale_gain(1.0, 0.0, 8) == 8
    assert adascale_gain(0.0, 1.0, 8) == 1
    assert adascale_gain(0.0, 0.0, 8) == 1
    assert adascale_gain(3.0, 2.0, 1) == 1


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6), st.integers(1, 4096))
def test_adascales_gain_grows_with_noise_and_stays_within_1_and_s(variance, squared_norm, s):
    gain = adascale_gain(variance, squared_norm, s)
    assert 1 - 1e-9 <= gain <= s * (1 + 1e-9)
    assert adascale_gain(2 * variance, squared_norm, s) >= gain * (1 - 1e-9)


def gradients(rng, examples_a_piece, pieces, *, mean, per_example_sd, dimensions=64):
    """Squared norms as a trainer sees them: their mean over pieces, and that of the batch gradient."""
    sd = per_example_sd / math.sqrt(examples_a_piece)
    parts = [[mean + rng.gauss(0, sd) for _ in range(dimensions)] for _ in range(pieces)]
    whole = [sum(column) / pieces for column in zip(*parts, strict=True)]
    return sum(x * x for part in parts for x in part) / pieces, sum(x * x for x in whole)


@pytest.mark.parametrize("pieces", [2, 8, 16])
def test_adascale_estimates_the_true_gain_however_the_batch_is_cut(pieces):
    # base batch 16, S = 8: var = 64 * 0.8^2 / 16 and sqr = 64 * 0.2^2 are equal, so the gain is 16 / 9
    rng = random.Random(pieces)
    controller = AdaScale("torch.optim.SGD", 8)
    for _ in range(600):
        controller.observe(*gradients(rng, 128 // pieces, pieces, mean=0.2, per_example_sd=0.8), pieces)
    assert controller.gain == pytest.approx(16 / 9, rel=0.05)


def test_adascale_is_unbiased_from_the_first_update_and_counts_scale_invariant_steps():
    controller = AdaScale("torch.optim.SGD", 8)
    assert (controller.gain, controller.step) == (1.0, 0)
    # |g_i|^2 = 1 + 1 and |g|^2 = 1 + 1/8 for 8 pieces of a base batch each: var = sqr = 1
    for _ in range(9):
        controller.observe(2.0, 1.125, pieces=8)
        assert controller.gain == pytest.approx(16 / 9)
        controller.advance()
    assert controller.progress == pytest.approx(16.0)


def test_adascale_forgets_with_the_papers_smoothing():
    controller = AdaScale("torch.optim.SGD", 100)
    assert controller.smoothing == pytest.approx(0.9)
    controller.observe(100.0, 1.0, pieces=100)  # sqr 0, var 100: all noise
    controller.observe(1.0, 1.0, pieces=100)  # sqr 1, var 0: none
    older, newer = 0.9 / 1.9, 1.0 / 1.9
    assert controller.gain == pytest.approx(adascale_gain(100 * older, newer, 100))
    assert AdaScale("torch.optim.SGD", 1024).smoothing == 0.0


def test_adascale_leaves_out_updates_that_are_not_finite():
    controller = AdaScale("torch.optim.SGD", 4)
    controller.observe(math.inf, math.nan, pieces=4)
    assert controller.gain == 1.0
    controller.observe(2.0, 1.25, pieces=4)
    controller.observe(math.nan, 1.0, pieces=4)
    assert controller.gain == pytest.approx(1.6)


def test_adascale_averages_estimates_below_zero_as_they_are():
    controller = AdaScale("torch.optim.SGD", 4)
    controller.smoothing = 1 - 1e-9  # a plain mean
    controller.observe(9.0, 1.0, pieces=4)  # var 32/3, sqr -5/3: more noise than the batch can tell
    assert controller.gain == 4.0
    for _ in range(3):
        controller.observe(1.0, 1.0, pieces=4)  # var 0, sqr 1
    assert controller.gain == pytest.approx(adascale_gain(8 / 3, 1 / 3, 4))


def test_adascale_goes_on_from_a_checkpoint_bit_by_bit():
    rng = random.Random(0)
    seen = [gradients(rng, 16, 4, mean=0.1, per_example_sd=1.0) for _ in range(12)]
    whole, first, second = (AdaScale("torch.optim.SGD", 4) for _ in range(3))
    for i, norms in enumerate(seen):
        if i == 5:
            second.restore(json.loads(json.dumps(first.state())))
        for controller in (whole, first if i < 5 else second):
            controller.observe(*norms, pieces=4)
            controller.advance()
    assert second.state() == whole.state()
    assert whole.step > 12


def test_adascale_is_refused_where_it_means_nothing():
    check_adascale("torch.optim.SGD", 8)
    check_adascale("torch.optim.SGD", 8.0)
    with pytest.raises(UserError, match=r"derived for SGD, not for torch\.optim\.AdamW"):
        check_adascale("torch.optim.AdamW", 8)
    with pytest.raises(UserError, match=r"k = 2\.5: the nearest valid values are 2 and 3"):
        AdaScale("torch.optim.SGD", 2.5)
    with pytest.raises(UserError, match="at least 2 micro-batches"):
        AdaScale("torch.optim.SGD", 2).observe(1.0, 1.0, pieces=1)
    AdaScale("torch.optim.SGD", 1).observe(1.0, 1.0, pieces=1)
