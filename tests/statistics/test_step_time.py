"""The median of three timed rounds: how well it is known, and when it cannot be a time alone on the machine."""

import numpy as np
import pytest

from harness.statistics.step_time import is_slower, relative_sds


@pytest.mark.parametrize("arms", [1, 6])
def test_the_relative_sd_of_a_median_of_three_is_that_of_many_such_medians(arms):
    rng, sd = np.random.default_rng(0), 0.03
    rounds = 0.01 * np.exp(sd * rng.standard_normal((4000, arms, 3)))
    true = np.log(np.median(rounds, axis=2)).std()
    stated = np.array([relative_sds(list(study)) for study in rounds], dtype=float)
    assert np.sqrt((stated**2).mean()) == pytest.approx(true, rel=0.25)
    assert np.sqrt((stated**2).mean()) >= true * 0.95  # that noisier ones keep their own makes it larger


def test_six_arms_together_say_more_than_three_rounds_each():
    """A round in ten is alike to its neighbours by chance: its own three rounds would claim a tenth of the error."""
    rng = np.random.default_rng(1)
    rounds = np.exp(0.03 * rng.standard_normal((1000, 6, 3)))
    alone = np.array([[relative_sds([arm])[0] for arm in study] for study in rounds], dtype=float)
    together = np.array([relative_sds(list(study)) for study in rounds], dtype=float)
    assert np.quantile(alone, 0.05) < 0.3 * np.median(alone)
    assert np.quantile(together, 0.05) > 0.6 * np.median(together)


def test_a_noisier_arm_keeps_its_own_spread():
    quiet, noisy = [1.0, 1.001, 0.999], [1.0, 1.3, 0.8]
    together = relative_sds([quiet, quiet, quiet, noisy])
    assert together[3] == pytest.approx(relative_sds([noisy])[0])
    assert together[:3] == [pytest.approx(together[0])] * 3
    assert (together[0] or 0.0) < (together[3] or 0.0)


def test_a_row_without_rounds_has_no_spread_and_hides_none():
    assert relative_sds([[]]) == [None]
    assert relative_sds([[], [1.0, 1.1, 1.0]]) == [None, relative_sds([[1.0, 1.1, 1.0]])[0]]
    assert relative_sds([[1.0, 1.0, 1.0]]) == [0.0]
    assert relative_sds([]) == []


def test_an_update_cannot_take_longer_alone_than_in_trials_that_share_the_machine():
    assert is_slower(0.0147, None, [0.0032, 0.0031, 0.0033])
    assert is_slower(0.0147, 0.02, [0.0032])
    assert not is_slower(0.0032, 0.02, [0.0147, 0.015])
    assert not is_slower(0.0147, None, [])


def test_what_noise_can_do_is_not_flagged():
    packed = [0.0100, 0.0102, 0.0098, 0.0101, 0.0099]
    assert not is_slower(0.0108, 0.01, packed)  # less than 10 %
    assert is_slower(0.0115, 0.01, packed)
    assert not is_slower(0.0115, 0.08, packed)  # within two standard errors of the timing
    assert not is_slower(0.0115, 0.0, [0.010, 0.014, 0.007])  # or of the trials


def test_equal_times_are_rarely_flagged():
    """Where sharing costs nothing, at a noise of 5 % in rounds and 10 % in trials: below 3 % of arms."""
    rng = np.random.default_rng(2)
    flagged = 0
    for _ in range(2000):
        rounds, packed = np.exp(0.05 * rng.standard_normal(3)), np.exp(0.1 * rng.standard_normal(5))
        flagged += is_slower(float(np.median(rounds)), relative_sds([[*rounds]])[0], [*packed])
    assert flagged < 0.03 * 2000
