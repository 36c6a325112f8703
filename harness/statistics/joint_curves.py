"""Joint draws of what every arm of a study costs: smooth curves per rule, lack of fit, and the noise of seeds.

log E of an arm is its rule's curve at that TBS plus a lack of fit of its own. The curves are quadratic in log2 TBS and
meet at the base TBS, where all rules train alike. So an arm borrows from its neighbours: arms taken for independent
overstate how sure the best one is (P(best) 0.93 stated, 0.81 true in simulation).

Misses are sites of expectation propagation (Minka 2001): an arm's trials that stopped unmet multiply its density by
their chance to be beyond the stop, and that product is replaced by the normal density of the same mean and variance.
Diverged trials have no place on a curve and are left out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from harness.plan.outcome import Outcome
from harness.statistics.estimates import Observation, PooledSpread, pooled_log_spread, with_outcome
from harness.statistics.levels import trial_variance

Arm = tuple[str, int]  # LR rule and TBS

LEVEL_SD, SLOPE_SD, CURVATURE_SD = 2.0, 0.7, 0.17  # prior of a curve in log2 TBS, centred
LACK_SDS = (0.03, 0.05, 0.1)  # of an arm about its curve, on the log; the data weigh them
NOISE_SDS = (0.05, 0.1, 0.2, 0.4)  # of a trial, where no arm has replicates; the data weigh them
NOISE_QUANTILES = 5  # of the pooled variance, where there are replicates
LEAST_VARIANCE = 1e-8  # of a trial: ties without a grid are not exact knowledge
SWEEPS = 12  # of expectation propagation
SITE_POINTS = 301


@dataclass(frozen=True)
class ArmData:
    """What the trials of one arm say, on the log."""

    reached: int
    mean: float  # of the places that reached; 0 without any
    relative_variance: float  # of one trial, in units of the pooled one; 1 unless Bartlett's test rejects one variance
    grid_variance: float  # of knowing places to one evaluation interval
    stops: dict[float, int]  # log stop -> trials that had not met the target there
    diverged: int
    n: int


@dataclass(frozen=True)
class JointDraws:
    """Draws of log E, float [draw, arm], and the spreads behind them."""

    arms: tuple[Arm, ...]
    data: tuple[ArmData, ...]
    log_cost: np.ndarray
    lack_sd: float  # posterior mean
    noise_sd: float  # of one trial, posterior mean


def joint_draws(
    arms: Mapping[Arm, Sequence[Observation]], draws: int, rng: np.random.Generator, base: float | None = None
) -> JointDraws:
    """Draw log E of every arm with data; at TBS `base` all rules share one point of their curves."""
    kept = {arm: data for arm, trials in arms.items() if (data := with_outcome(trials))}
    spread = pooled_log_spread(kept.values())
    data = tuple(_arm_data(trials, spread) for trials in kept.values())
    names = tuple(kept)
    if not any(arm.reached for arm in data):
        return JointDraws(names, data, np.zeros((draws, 0)), math.nan, math.nan)
    curves = _curve_covariance(names, base)
    noise, noise_weights = _noise_variances(spread)
    lacks = np.repeat(np.square(LACK_SDS), len(noise))  # [g]
    noises, log_weights = np.tile(noise, len(LACK_SDS)), np.log(np.tile(noise_weights, len(LACK_SDS)))
    prior = curves + lacks[:, None, None] * np.eye(len(names))
    log_weights = log_weights + _log_likelihood(data, prior, noises)
    weights = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()
    mean, covariance = posterior(data, prior, noises)
    component = np.searchsorted(np.cumsum(weights), (np.arange(draws) + 0.5) / draws).clip(max=len(weights) - 1)
    normal = rng.standard_normal((draws, len(names)))
    root = np.linalg.cholesky(covariance)
    log_cost = mean[component] + np.einsum("dij,dj->di", root[component], normal)
    return JointDraws(
        names,
        data,
        log_cost,
        float(weights @ np.sqrt(lacks)),
        float(weights @ np.sqrt(np.maximum(noises, LEAST_VARIANCE))),
    )


def _arm_data(trials: Sequence[Observation], spread: PooledSpread) -> ArmData:
    reached = [o for o in trials if o.reached]
    grid, relative = 0.0, 1.0
    if reached:
        grid = float(np.mean([(o.width / o.middle) ** 2 for o in reached])) / 12
    if len(reached) == len(trials) and spread.sd > 0 and not spread.homogeneous:
        relative = trial_variance(trials, spread) / spread.sd**2
    stops: dict[float, int] = {}
    for o in trials:
        if not o.reached and o.outcome is not Outcome.DIVERGED and o.at_least > 0:
            stops[math.log(o.at_least)] = stops.get(math.log(o.at_least), 0) + 1
    mean = math.fsum(math.log(o.middle) for o in reached) / len(reached) if reached else 0.0
    diverged = sum(o.outcome is Outcome.DIVERGED for o in trials)
    return ArmData(len(reached), mean, relative, grid, stops, diverged, len(trials))


def _curve_covariance(names: Sequence[Arm], base: float | None) -> np.ndarray:
    """Prior covariance of the curves at the arms, float [arm, arm]."""
    x = np.log2([size for _, size in names])
    centre = (x.min() + x.max()) / 2
    start = math.log2(base) if base is not None else centre
    rules = [rule for rule, _ in names]
    same = np.array([[a == b for b in rules] for a in rules], float)
    # A quadratic about the centre, moved so that it is 0 at the base: slope and curvature remain each rule's own.
    slope, curvature = x - start, (x - centre) ** 2 - (start - centre) ** 2
    own = SLOPE_SD**2 * np.outer(slope, slope) + CURVATURE_SD**2 * np.outer(curvature, curvature)
    level = np.ones_like(same) if base is not None else same
    return LEVEL_SD**2 * level + same * own


def _noise_variances(spread: PooledSpread) -> tuple[np.ndarray, np.ndarray]:
    """Variances of one trial to average over, and their weights before the curves are seen."""
    if not spread.degrees_of_freedom:
        return np.square(NOISE_SDS), np.ones(len(NOISE_SDS))
    middles = (np.arange(NOISE_QUANTILES) + 0.5) / NOISE_QUANTILES
    degrees = spread.degrees_of_freedom
    return spread.sd**2 * degrees / special.chdtri(degrees, middles), np.ones(NOISE_QUANTILES)


def _mean_variances(data: Sequence[ArmData], noises: np.ndarray) -> np.ndarray:
    """Of the mean of the trials that reached, float [g, arm]; infinity where none did."""
    relative = np.array([arm.relative_variance / arm.reached if arm.reached else math.inf for arm in data])
    return np.maximum(np.maximum(noises, LEAST_VARIANCE)[:, None] * relative, [arm.grid_variance for arm in data])


def _overall_mean(data: Sequence[ArmData]) -> float:
    return float(np.mean([arm.mean for arm in data if arm.reached]))


def _log_likelihood(data: Sequence[ArmData], prior: np.ndarray, noises: np.ndarray) -> np.ndarray:
    """Of the means of what reached, float [g]; misses only enter the posterior."""
    seen = np.array([i for i, arm in enumerate(data) if arm.reached])
    residual = np.array([arm.mean for arm in data if arm.reached]) - _overall_mean(data)
    variances = _mean_variances(data, noises)[:, seen]
    total = prior[:, seen[:, None], seen] + variances[:, :, None] * np.eye(len(seen))
    solved = np.linalg.solve(total, np.broadcast_to(residual[:, None], (*variances.shape, 1)))[..., 0]
    return -0.5 * (solved @ residual) - 0.5 * np.linalg.slogdet(total)[1]


def posterior(data: Sequence[ArmData], prior: np.ndarray, noises: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [g, arm] and covariance [g, arm, arm] of log E."""
    centre = _overall_mean(data)
    precision = 1 / _mean_variances(data, noises)
    pull = precision * (np.array([arm.mean for arm in data]) - centre)
    prior_precision = np.linalg.inv(prior)
    diagonal = np.eye(len(data))
    cut = [i for i, arm in enumerate(data) if arm.stops]
    site_precision, site_pull = np.zeros_like(precision), np.zeros_like(pull)

    def moments() -> tuple[np.ndarray, np.ndarray]:
        covariance = np.linalg.inv(prior_precision + (precision + site_precision)[:, :, None] * diagonal)
        return (covariance @ (pull + site_pull)[..., None])[..., 0], covariance

    for _ in range(SWEEPS if cut else 0):
        _update_sites(data, cut, noises, centre, *moments(), site_precision, site_pull)
    mean, covariance = moments()
    return centre + mean, covariance


def _update_sites(
    data: Sequence[ArmData],
    cut: Sequence[int],
    noises: np.ndarray,
    centre: float,
    mean: np.ndarray,
    covariance: np.ndarray,
    site_precision: np.ndarray,
    site_pull: np.ndarray,
) -> None:
    """One damped sweep in place: the normal factor that stands for the missed trials of each arm in `cut`."""
    sd = np.sqrt(np.maximum(noises, LEAST_VARIANCE))
    for i in cut:
        marginal = covariance[:, i, i]
        cavity_precision = np.maximum(1 / marginal - site_precision[:, i], 1e-6)
        cavity = (mean[:, i] / marginal - site_pull[:, i]) / cavity_precision
        width = 1 / np.sqrt(cavity_precision)
        top = np.maximum(cavity + 6 * width, max(data[i].stops) - centre + 4 * sd)
        bottom = np.minimum(cavity - 6 * width, top - 1e-3)
        places = np.linspace(bottom, top, SITE_POINTS, axis=1)  # [g, point]
        log_density = -0.5 * cavity_precision[:, None] * (places - cavity[:, None]) ** 2
        for stop, trials in data[i].stops.items():
            log_density += trials * special.log_ndtr((places - (stop - centre)) / sd[:, None])
        density = np.exp(log_density - log_density.max(axis=1, keepdims=True))
        density /= density.sum(axis=1, keepdims=True)
        tilted = (density * places).sum(axis=1)
        variance = np.maximum((density * (places - tilted[:, None]) ** 2).sum(axis=1), 1e-10)
        new_precision = np.maximum(1 / variance - cavity_precision, 0.0)
        new_pull = tilted / variance - cavity * cavity_precision
        site_precision[:, i] += 0.7 * (new_precision - site_precision[:, i])
        site_pull[:, i] += 0.7 * (new_pull - site_pull[:, i])
