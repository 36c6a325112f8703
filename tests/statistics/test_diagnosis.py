"""Sentences about fits, and the alarm for trials that look like errors."""

import math

import numpy as np
import pytest

from harness.plan.outcome import Outcome
from harness.published.read import read
from harness.statistics.diagnosis import choose, diagnose, outliers
from harness.statistics.estimates import Observation
from harness.statistics.fit_models import Model
from harness.statistics.fits import fit
from harness.statistics.trend import rise


def reached(value, width=0.0):
    return Observation(Outcome.REACHED, float(value), float(value) - width)


def runs(benchmark):
    return read(f"mlperf_{benchmark}").curves[0].by_size


def olympic_means(benchmark):
    return next(curve.by_size for curve in read("mlperf_means").curves if curve.label == benchmark)


SMITH = {128: [reached(48)], 256: [reached(70)], 512: [reached(95)], 1024: [reached(116)]}


def fits(arms):
    return [fit(arms, model) for model in Model]


def test_resnet50s_arms_choose_the_hyperbola():
    choice = choose(fits(runs("resnet")))
    assert choice.model is Model.HYPERBOLA
    assert choice.sentence.startswith("The data choose the hyperbola (next: generalised hyperbola, AICc +")
    assert choice.aicc_differences["hyperbola"] == 0


def test_fewer_than_seven_arms_choose_nothing():
    choice = choose(fits(SMITH))
    assert choice.model is None
    assert choice.sentence == "The data do not choose a curve: 4 arms, and it takes 7."


def test_within_two_the_data_do_not_choose():
    """Noise of 40 % over a factor of 16 in TBS: every curve will do."""
    rng = np.random.default_rng(4)
    arms = {
        2**i: [reached(4 * (1 + 2**i / 300) * math.exp(0.4 * rng.standard_normal())) for _ in range(3)]
        for i in range(3, 10)
    }
    choice = choose(fits(arms))
    assert choice.model is None
    assert "do not choose between" in choice.sentence


def test_smiths_table_is_diagnosed_as_untuned():
    found = diagnose(fits(SMITH), rise(SMITH))
    assert found.shape is Model.LOG_LINEAR
    assert found.sentence.startswith("Log-linear: the LR is probably not tuned per TBS (left-out error 1.")


@pytest.mark.parametrize(
    ("arms", "beginning"),
    [
        (runs("resnet"), "A hyperbola describes the sweep"),
        (olympic_means("llama2_70b_lora"), "Power law"),
        (olympic_means("unet3d"), "No rise of E with TBS is established"),
        (olympic_means("cosmoflow"), "No curve describes the sweep"),
        ({16: [reached(4)] * 3}, "No curve: fewer than two arms"),
        ({16: [reached(4)] * 3, 64: [reached(5)] * 3}, "No diagnosis of the shape: 2 arms"),
    ],
    ids=["resnet", "lora", "unet3d", "cosmoflow", "one arm", "two arms"],
)
def test_other_sweeps_get_the_sentence_their_readers_gave_them(arms, beginning):
    assert diagnose(fits(arms), rise(arms)).sentence.startswith(beginning)


def test_gpt3s_typing_error_raises_the_alarm_and_its_siblings_do_not():
    """MLPerf 4.1, GPT-3 at batch 3072: one of seven values is ten times the others, as published."""
    values = [1_207_959_552] * 5 + [1_258_291_200, 13_790_871_552]
    (outlier,) = outliers({3072: [reached(v) for v in values]})
    assert (outlier.total_batch_size, outlier.index, outlier.value) == (3072, 6, 13_790_871_552)
    assert outlier.ratio == pytest.approx(11.4, abs=0.1)
    assert outlier.deviations > 100


def test_no_reference_run_of_resnet50_raises_the_alarm():
    assert outliers(runs("resnet")) == ()


def test_a_neighbouring_evaluation_is_no_outlier_on_a_coarse_grid():
    arms = {256: [reached(4, 1)] * 9 + [reached(5, 1)]}
    assert outliers(arms) == ()
    assert len(outliers({256: [reached(4)] * 9 + [reached(5)]})) == 1


def test_false_alarms_are_rare_in_honest_noise():
    rng = np.random.default_rng(0)
    alarms = sum(
        bool(outliers({2**i: [reached(math.exp(0.1 * rng.standard_normal())) for _ in range(5)] for i in range(16)}))
        for _ in range(100)
    )
    assert alarms <= 10


def test_arms_too_small_to_have_a_spread_raise_none():
    assert outliers({16: [reached(4), reached(400)], 64: []}) == ()
