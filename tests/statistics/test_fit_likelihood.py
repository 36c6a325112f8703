"""The likelihood: what each kind of trial contributes, against direct computation."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import integrate, optimize, stats

from harness.plan.outcome import Outcome
from harness.statistics.estimates import Observation
from harness.statistics.fit_likelihood import arm_means, profile, profile_over
from harness.statistics.fit_models import Model, shapes

SIZES = (16, 64, 128, 256, 512)


def reached(value, width=0.0):
    return Observation(Outcome.REACHED, float(value), float(value) - width)


def censored(stop):
    return Observation(Outcome.CENSORED, math.inf, float(stop))


DIVERGED = Observation(Outcome.DIVERGED, math.inf, math.nan)


def sweep(seed=0, critical=150.0, sd=0.1, lack=0.0, seeds=4, sizes=SIZES):
    """Trials of a hyperbola with E_min = 4 and known variances."""
    rng = np.random.default_rng(seed)
    means = {size: math.log(4 * (1 + size / critical)) + lack * rng.standard_normal() for size in sizes}
    return {
        size: [reached(math.exp(m + sd * rng.standard_normal())) for _ in range(seeds)] for size, m in means.items()
    }


def test_an_arm_of_exact_places_is_its_mean_log_and_pooled_variance():
    arms = sweep(seeds=3)
    summary = arm_means(arms)
    logs = np.array([[math.log(o.value) for o in arms[size]] for size in SIZES])
    pooled = logs.var(axis=1, ddof=1).mean()
    assert summary.means == pytest.approx(logs.mean(axis=1))
    assert summary.variances == pytest.approx(np.full(5, pooled / 3))
    assert (summary.degrees, summary.within_sd) == (10, pytest.approx(math.sqrt(pooled)))


def test_a_bracket_wider_than_the_spread_leaves_a_uniform_distribution():
    """All crossed in (7, 8]: the mean is anywhere in there, and more seeds say no more."""
    few, many = (arm_means({16: [reached(8, 1)] * n, 64: [reached(16, 1)] * n}) for n in (3, 30))
    for summary in (few, many):
        assert summary.variances[0] == pytest.approx((math.log(8) - math.log(7)) ** 2 / 12, rel=0.15)
    assert many.means[0] == pytest.approx((math.log(7) + math.log(8)) / 2, abs=1e-3)


def test_brackets_much_finer_than_the_spread_change_nothing():
    arms = sweep(sd=0.2)
    fine = {size: [reached(o.value * 1.0005, o.value * 0.001) for o in trials] for size, trials in arms.items()}
    exact, bracketed = arm_means(arms), arm_means(fine)
    assert bracketed.means == pytest.approx(exact.means, abs=1e-4)
    assert bracketed.variances == pytest.approx(exact.variances, rel=1e-3)


def test_the_grid_is_taken_out_of_the_spread_once():
    """Rounding up to a grid as wide as the spread must not bias the mean, nor count twice in its variance."""
    rng = np.random.default_rng(5)
    true, width = 2.0, 0.8
    places = np.exp(true + 0.1 * rng.standard_normal((300, 8)))
    rounded = np.ceil(places / width) * width
    summary = arm_means({i + 1: [reached(v, width) for v in row] for i, row in enumerate(rounded)})
    assert summary.means.mean() == pytest.approx(true, abs=0.005)
    assert summary.variances.mean() == pytest.approx(summary.means.var(), rel=0.3)


def test_a_miss_moves_its_arm_up_by_what_is_known_of_it():
    arms = sweep(seeds=4)
    with_miss = {**arms, 512: [*arms[512], censored(30)]}
    summary = arm_means(with_miss)
    sd = summary.within_sd
    logs = np.array([math.log(o.value) for o in arms[512]])

    def likelihood(mean):
        return np.exp(-0.5 * np.sum((logs - mean) ** 2) / sd**2) * stats.norm.cdf((mean - math.log(30)) / sd)

    low, high = logs.mean() - 1, logs.mean() + 1
    total = integrate.quad(likelihood, low, high)[0]
    expected = integrate.quad(lambda m: m * likelihood(m), low, high)[0] / total
    assert summary.means[-1] == pytest.approx(expected, abs=1e-4)
    assert summary.means[-1] > logs.mean()


def test_diverged_trials_are_left_out_and_named():
    arms = sweep()
    summary = arm_means({**arms, 512: [*arms[512], DIVERGED], 1024: [DIVERGED, DIVERGED, reached(30)]})
    assert summary.sizes.tolist() == [float(size) for size in SIZES]
    assert summary.excluded == ("TBS 512: 1 of 5 trials diverged", "TBS 1024: 2 of 3 trials diverged")


def test_without_replicates_the_profile_is_ordinary_least_squares():
    """One trial an arm: the power law's interval is the t interval of a regression of log E on log B."""
    arms = sweep(seeds=1, lack=0.1)
    found = profile(arm_means(arms), Model.POWER_LAW)
    exponent = found.shapes.parameters(1.0)["exponent"][0]
    line: Any = stats.linregress(np.log(SIZES), [math.log(arms[size][0].value) for size in SIZES])
    half = stats.t.ppf(0.975, 3) * line.stderr
    assert exponent[found.best] == pytest.approx(line.slope, abs=1e-3)
    assert found.interval(exponent) == pytest.approx((line.slope - half, line.slope + half), abs=2e-3)


def test_arms_weigh_by_seeds_where_seeds_are_the_noise_and_alike_where_the_curve_is():
    """1 / (s_within^2 / n + s_lack^2): 40 seeds in one arm of five count ten times as much, or hardly more."""
    rng = np.random.default_rng(1)
    counts = {16: 4, 64: 4, 128: 4, 256: 4, 512: 40}

    def weights(lack):
        return profile(
            arm_means(
                {
                    size: [
                        reached(4 * (1 + size / 150) * math.exp(lack * (-1) ** i + 0.1 * rng.standard_normal()))
                        for _ in range(n)
                    ]
                    for i, (size, n) in enumerate(counts.items())
                }
            ),
            Model.HYPERBOLA,
        ).weights

    assert weights(0.0)[-1] / weights(0.0)[0] > 3
    assert weights(0.3)[-1] / weights(0.3)[0] < 1.2


def test_lack_of_fit_is_found_and_measured():
    estimates = [
        math.sqrt(profile(arm_means(sweep(seed, lack=0.15, sd=0.05)), Model.HYPERBOLA).lack_variance)
        for seed in range(30)
    ]
    assert float(np.median(estimates)) == pytest.approx(0.15, rel=0.25)


@pytest.mark.parametrize("n", [1, 3, 10])
def test_the_chance_that_a_whole_arm_missed_is_close_to_exact(n):
    """One normal probability stands for the chance that all n trials lie beyond the stop, their mean unknown."""
    arms = {**sweep(sd=0.2), 1024: [censored(26)] * n}
    summary, stop, lack = arm_means(arms), math.log(26), 0.1
    sd = math.sqrt(summary.variances[0] * 4)
    error = math.sqrt(summary.missed_variances[0] + lack**2)
    for mean in stop + np.array([-0.3, 0.0, 0.15, 0.3, 0.6]):
        exact = integrate.quad(
            lambda u, mean=mean: stats.norm.pdf(u, 0, lack) * stats.norm.cdf((mean + u - stop) / sd) ** n, -1, 1
        )[0]
        approximate = stats.norm.cdf((mean - summary.missed_stops[0] - summary.missed_shifts[0]) / error)
        assert approximate == pytest.approx(exact, abs=0.03 if n > 1 else 1e-6)


def test_with_an_arm_that_never_reached_the_deviance_is_still_the_least():
    """Scale and variances found by Newton's steps and on a grid, against a general-purpose minimiser."""
    summary = arm_means({**sweep(seed=2, lack=0.1), 1024: [censored(36)] * 4})
    grid = shapes(Model.HYPERBOLA, 16, 1024, np.linspace(0.2, 0.9, 8))
    found = profile_over(summary, grid)
    curves, beyond = grid.log_curve(summary.sizes), grid.log_curve(summary.missed_sizes)
    count = summary.degrees + len(summary.means) - 1
    for i, (curve, far) in enumerate(zip(curves, beyond, strict=True)):

        def deviance(x, curve=curve, far=far):
            scale, q, ratio = x[0], math.exp(x[1]), math.exp(x[2])
            variances = summary.variances + ratio
            squares = np.sum((summary.means - curve - scale) ** 2 / variances)
            z = (scale + far - summary.missed_stops - summary.missed_shifts) / np.sqrt(
                q * (summary.missed_variances + ratio)
            )
            return (
                count * math.log(q)
                + (squares + summary.degrees) / q
                + np.sum(np.log(variances))
                + math.log(np.sum(1 / variances))
                - 2 * np.sum(stats.norm.logcdf(z))
            )

        start = [found.log_scale[i], 0.0, math.log(0.01)]
        least: Any = optimize.minimize(deviance, start, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-8})
        assert found.deviance[i] == pytest.approx(least.fun, abs=0.05)  # the grid of variances is that coarse


def test_an_arm_that_never_reached_keeps_the_curve_from_passing_below_its_stop():
    arms = {**sweep(seed=3, critical=1000.0), 1024: [censored(40)] * 5}  # the others rise too little for a stop at 40
    without, with_missed = (profile(arm_means(a), Model.HYPERBOLA) for a in (sweep(seed=3, critical=1000.0), arms))
    ends = [p.log_scale[p.best] + p.shapes.log_curve(np.array([1024.0]))[p.best, 0] for p in (without, with_missed)]
    assert ends[0] < math.log(12) < ends[1]
    assert with_missed.lack_variance > without.lack_variance  # and the arms disagree with the hyperbola
