"""Joint draws of what every arm of a study costs: smooth curves per rule, lack of fit, and the noise of seeds.

log E of an arm is its rule's curve at that TBS plus a lack of fit of its own. The curves are quadratic in log2 TBS and
meet at the base TBS, where all rules train alike. So an arm borrows from its neighbours: arms taken for independent
overstate how sure the best one is (P(best) 0.93 stated, 0.81 true in simulation).

Bounds are sites of expectation propagation (Minka 2001): an arm's trials that stopped unmet multiply its density by
their chance to be beyond the stop, those that met the target at their first evaluation by their chance to be before it,
and that product is replaced by the normal density of the same mean and variance. Before a first evaluation E is taken
to be uniform, not log E: evaluations are spaced to suit the runs. Diverged trials have no place on a curve and are left
out.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from harness.plan.outcome import Outcome
from harness.statistics.estimates import Observation, PooledSpread, grid_variance, pooled_log_spread, with_outcome
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

    placed: int  # trials whose place has a logarithm
    mean: float  # of those places; 0 without any
    relative_variance: float  # of one trial, in units of the pooled one; 1 unless Bartlett's test rejects one variance
    grid_variance: float  # of knowing places to one evaluation interval
    stops: dict[float, int]  # log stop -> trials that had not met the target there
    firsts: dict[float, int]  # log of a first evaluation -> trials that had met the target by then
    diverged: int
    n: int

    @property
    def has_reached(self) -> bool:
        return bool(self.placed or self.firsts)


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
    """Draw log E of every arm with data; at TBS `base` all rules share one point of their curves.

    No place may be 0 (met before training): it has no logarithm.
    """
    kept = {arm: data for arm, trials in arms.items() if (data := with_outcome(trials))}
    spread = pooled_log_spread(kept.values())
    data = tuple(_arm_data(trials, spread) for trials in kept.values())
    names = tuple(kept)
    if not any(arm.has_reached for arm in data):
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
    placed = [o for o in trials if o.has_log]
    relative = 1.0
    if len(placed) == len(trials) and spread.sd > 0 and not spread.homogeneous:
        relative = trial_variance(trials, spread) / spread.sd**2
    diverged = [o for o in trials if o.outcome is Outcome.DIVERGED]
    stops = Counter(math.log(o.at_least) for o in trials if not o.reached and 0 < o.at_least < math.inf)
    firsts = Counter(math.log(o.place) for o in trials if o.reached and not o.has_log)
    return ArmData(
        placed=len(placed),
        mean=math.fsum(math.log(o.middle) for o in placed) / len(placed) if placed else 0.0,
        relative_variance=relative,
        grid_variance=grid_variance(placed) if placed else 0.0,
        stops=dict(stops),
        firsts=dict(firsts),
        diverged=len(diverged),
        n=len(trials),
    )


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
    """Of the mean of the places, float [g, arm]; infinity where there is none."""
    relative = np.array([arm.relative_variance / arm.placed if arm.placed else math.inf for arm in data])
    return np.maximum(np.maximum(noises, LEAST_VARIANCE)[:, None] * relative, [arm.grid_variance for arm in data])


def _overall_mean(data: Sequence[ArmData]) -> float:
    means = [arm.mean for arm in data if arm.placed]
    return float(np.mean(means or [first for arm in data for first in arm.firsts]))


def _log_likelihood(data: Sequence[ArmData], prior: np.ndarray, noises: np.ndarray) -> np.ndarray:
    """Of the means of the places, float [g]; bounds only enter the posterior."""
    seen = np.array([i for i, arm in enumerate(data) if arm.placed], int)
    residual = np.array([data[i].mean for i in seen]) - _overall_mean(data)
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
    cut = [i for i, arm in enumerate(data) if arm.stops or arm.firsts]
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
    """One damped sweep in place: the normal factor that stands for the bounds of each arm in `cut`."""
    sd = np.sqrt(np.maximum(noises, LEAST_VARIANCE))
    for i in cut:
        marginal = covariance[:, i, i]
        cavity_precision = np.maximum(1 / marginal - site_precision[:, i], 1e-6)
        cavity = (mean[:, i] / marginal - site_pull[:, i]) / cavity_precision
        width = 1 / np.sqrt(cavity_precision)
        top, bottom = cavity + 6 * width, cavity - 6 * width
        if data[i].stops:
            top = np.maximum(top, max(data[i].stops) - centre + 4 * sd)
        if data[i].firsts:
            bottom = np.minimum(bottom, min(data[i].firsts) - centre - 4 * sd)
        places = np.linspace(bottom, top, SITE_POINTS, axis=1)  # [g, point]
        log_density = -0.5 * cavity_precision[:, None] * (places - cavity[:, None]) ** 2
        for stop, trials in data[i].stops.items():
            log_density += trials * special.log_ndtr((places - (stop - centre)) / sd[:, None])
        for first, trials in data[i].firsts.items():
            log_density += trials * special.log_ndtr(((first - centre) - places) / sd[:, None])
        if data[i].firsts:  # uniform in E
            log_density += places
        density = np.exp(log_density - log_density.max(axis=1, keepdims=True))
        density /= density.sum(axis=1, keepdims=True)
        tilted = (density * places).sum(axis=1)
        variance = np.maximum((density * (places - tilted[:, None]) ** 2).sum(axis=1), 1e-10)
        new_precision = np.maximum(1 / variance - cavity_precision, 0.0)
        new_pull = tilted / variance - cavity * cavity_precision
        site_precision[:, i] += 0.7 * (new_precision - site_precision[:, i])
        site_pull[:, i] += 0.7 * (new_pull - site_pull[:, i])
