"""Published runs, read by the importer, give the published numbers: hit rates, tests, first and sustained hits."""

import math

import numpy as np
import pytest

from harness.plan.target import Target
from harness.published.columns import ReadingOptions
from harness.published.curves import Meaning
from harness.published.findings import finals_rate
from harness.published.read import read
from harness.statistics.comparisons import p_mean_below


def test_nanogpts_80_losses_pass_on_the_mean_though_25_of_them_miss():
    """modded-nanogpt, record of 2025-01-04: mean 3.27914, sd 0.00191, p = 0.0001 as rounded there."""
    (finals,) = read("nanogpt_80").finals
    assert np.mean(finals.values) == pytest.approx(3.27914, abs=5e-6)
    assert np.std(finals.values, ddof=1) == pytest.approx(0.00191, abs=5e-6)
    assert p_mean_below(finals.values, finals.target.value) == pytest.approx(6.7e-5, rel=0.01)
    rate = finals_rate(finals)
    assert (rate.reached, rate.n) == (55, 80)
    assert rate.interval.high < 0.8


@pytest.mark.parametrize(
    ("target", "touched", "held"),
    [(85, 55.3, 63.5), (88, 73.7, 73.7), (90, 75.8, 75.8), (90.5, 75.8, 79.9), (91.5, 79.9, 79.9), (92, 79.9, None)],
)
def test_smiths_archived_run_touches_its_targets_before_it_holds_them(target, touched, held):
    """ResNet-56, TBS 512: 85 % is touched 8 epochs before it is held for good, and 92 % is touched but never held."""
    (curve,) = read("smith2018_log", ReadingOptions(target=Target("accuracy", target / 100, "max", confirm=1))).curves
    (arm,) = curve.arms
    (run,) = arm.hits
    assert (curve.unit, arm.total_batch_size) == ("epochs", 512)
    assert run.first_touch == pytest.approx(touched, abs=0.05)
    assert arm.observations[0].value == run.first_touch  # confirm=1: the first touch is the crossing
    if held is None:
        assert math.isnan(run.held_from)
    else:
        assert run.held_from == pytest.approx(held, abs=0.05)


def test_smiths_epochs_are_read_as_those_of_a_time_budget():
    (curve,) = read("smith2018").curves
    assert curve.meaning is Meaning.IN_TIME_BUDGET
    assert [(arm.total_batch_size, arm.observations[0].value) for arm in curve.arms] == [
        (128, 48), (256, 70), (512, 95), (1024, 116),
    ]  # fmt: skip


def test_every_benchmark_of_mlperfs_means_is_a_curve_in_its_own_unit():
    curves = {curve.label: curve for curve in read("mlperf_means").curves}
    assert len(curves) == 19
    assert sum(len(curve.arms) for curve in curves.values()) == 106
    assert {curve.meaning for curve in curves.values()} == {Meaning.TO_TARGET}
    units = {"resnet": "epochs", "bert": "examples", "gpt3": "tokens", "rgat": "epochs"}
    assert {name: curves[name].unit for name in units} == units
