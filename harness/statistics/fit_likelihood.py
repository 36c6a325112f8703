"""The likelihood of E(B) over trials: brackets, misses, variance within arms and lack of fit (P17).

A trial's log place is normal about its arm's mean with a standard deviation pooled over arms; the arm's mean is normal
about the curve with a second one, the lack of fit: what the curve, the tuning of each arm and the split get wrong,
which no number of seeds averages out. So an arm weighs 1 / (s_within^2 / n + s_lack^2), and ten arms of 20 seeds are
ten points, not 200.

In two steps. (1) Each arm's likelihood of its own mean, with every trial as what is known of it (a bracket, or "not
before its stop"), is summarised by its mean and variance. (2) Given a shape of the curve, the scale is a weighted mean
and both variances are found by restricted likelihood (REML), all in closed form or on a grid: a profile over shapes
costs a millisecond.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import special

from harness.plan.outcome import Outcome
from harness.statistics.estimates import CONFIDENCE, Observation, pooled_log_spread, with_outcome
from harness.statistics.fit_models import Model, Shapes, shapes

Arms = Mapping[int, Sequence[Observation]]  # TBS -> its trials

VARIANCE_RATIOS = 48  # grid of lack-of-fit variances
NEAR_ZERO = 1e-12


@dataclass(frozen=True)
class ArmMeans:
    """What each arm says about its mean log place. Arms in which no trial reached only say "not before"."""

    sizes: np.ndarray  # TBS of arms with a trial that reached, float [k], ascending
    means: np.ndarray  # log place, float [k]
    variances: np.ndarray  # of those means within arms; all 1 where no arm has replicates (only ratios matter then)
    within_sd: float  # of one trial's log place; nan without replicates
    degrees: int  # of within_sd
    trials: np.ndarray  # int [k]
    missed_sizes: np.ndarray  # TBS of arms none of whose trials reached, float [m]
    missed_stops: np.ndarray  # log place at which they stopped, float [m]
    missed_shifts: (
        np.ndarray
    )  # how far beyond its stop the mean of an arm is that has an even chance to miss, float [m]
    missed_variances: np.ndarray  # of that statement, float [m]
    excluded: tuple[str, ...]  # arms and trials that no curve can use, and why


@dataclass(frozen=True)
class Profile:
    """Deviance (-2 log likelihood, up to a constant) over shapes, each at its best scale and variances."""

    shapes: Shapes
    deviance: np.ndarray  # float [g]
    log_scale: np.ndarray  # best log E(low) of each shape, float [g]
    scale_variance: np.ndarray  # of it, float [g]
    best: int  # index of the best shape
    threshold: float  # shapes within it of the best form the 95 % region
    lack_variance: float  # at the best shape
    weights: np.ndarray  # 1 / variance of each arm mean about the best curve, float [k]

    @property
    def inside(self) -> np.ndarray:
        """Indices of the 95 % region, int."""
        return np.flatnonzero(self.deviance <= self.deviance[self.best] + self.threshold)

    def interval(self, values: np.ndarray) -> tuple[float, float]:
        """Profile interval of a function of the shape, given as float [g]."""
        return float(values[self.inside].min()), float(values[self.inside].max())

    def scaled_interval(self, factors: np.ndarray) -> tuple[float, float]:
        """Profile interval of E(low) * factor(shape), given float [g]: the scale is free within what is left."""
        inside = self.inside
        if math.isinf(self.threshold):
            return (-math.inf if factors.min() < 0 else 0.0), math.inf
        left = np.maximum(self.threshold - (self.deviance[inside] - self.deviance[self.best]), 0)
        half = np.sqrt(left * self.scale_variance[inside])
        with np.errstate(over="ignore"):
            ends = factors[inside] * np.exp(self.log_scale[inside] + np.stack([-half, half]))
        return float(ends.min()), float(ends.max())


def arm_means(arms: Arms) -> ArmMeans:
    """Step 1. A diverged trial has no place on a curve: it is left out and named, and so is an arm half of those."""
    return _arm_means(tuple((size, tuple(observations)) for size, observations in sorted(arms.items())))


@lru_cache(maxsize=8)  # every curve and every critical batch size starts from the same arms
def _arm_means(arms: tuple[tuple[int, tuple[Observation, ...]], ...]) -> ArmMeans:
    excluded, usable = [], {}
    for size, observations in arms:
        data = with_outcome(observations)
        diverged = sum(o.outcome is Outcome.DIVERGED for o in data)
        if diverged:
            excluded.append(f"TBS {size}: {diverged} of {len(data)} trials diverged")
        at_once = sum(o.place == 0 for o in data)
        if at_once:  # a place of 0 has no logarithm
            excluded.append(f"TBS {size}: {at_once} of {len(data)} trials met the target before training")
        if data and 2 * (diverged + at_once) < len(data):
            usable[size] = [o for o in data if o.outcome is not Outcome.DIVERGED and o.place > 0]
    reached = {size: data for size, data in usable.items() if any(o.reached for o in data)}
    missed = {size: data for size, data in usable.items() if size not in reached}
    spread = pooled_log_spread(reached.values())
    replicated = spread.degrees_of_freedom > 0
    sd = _sd_without_grid(reached, spread.sd) if replicated else math.nan
    summaries = [_summary(data, sd) for data in reached.values()]
    means, variances = np.array(summaries).reshape(-1, 2).T
    stops = [_stops(data, sd) for data in missed.values()]
    missed_stops, missed_shifts, missed_variances = np.array(stops).reshape(-1, 3).T
    return ArmMeans(
        sizes=np.array(list(reached), float),
        means=means,
        variances=np.maximum(variances, NEAR_ZERO) if replicated else np.ones(len(means)),
        within_sd=spread.sd,
        degrees=spread.degrees_of_freedom,
        trials=np.array([len(data) for data in reached.values()], int),
        missed_sizes=np.array(list(missed), float),
        missed_stops=missed_stops,
        missed_shifts=missed_shifts,
        missed_variances=missed_variances if replicated else np.ones(len(stops)),
        excluded=tuple(excluded),
    )


def profile(arms: ArmMeans, model: Model) -> Profile:
    """Step 2: zoom on the 95 % region of shapes. Needs at least two arms that reached, of different TBS."""
    sizes = np.concatenate([arms.sizes, arms.missed_sizes])
    count = 81 if model is Model.GENERALISED else 161
    step, low, high = 1 / (count - 1), 0.0, 1.0
    found = profile_over(arms, shapes(model, sizes.min(), sizes.max(), np.linspace(low, high, count)))
    for _ in range(2):
        inside = found.shapes.share[found.inside]
        low, high = max(inside.min() - step, 0.0), min(inside.max() + step, 1.0)
        step = (high - low) / (count - 1)
        found = profile_over(arms, shapes(model, sizes.min(), sizes.max(), np.linspace(low, high, count)))
    for reach in (1.0, 0.1):  # the region is covered; now its best point
        found = profile_over(arms, found.shapes.joined(found.shapes.near(found.best, reach * step, reach)))
    return found


def profile_over(arms: ArmMeans, grid: Shapes, restricted: bool = True) -> Profile:
    """The deviance of every shape of a grid; `restricted=False` gives plain likelihood, which AICc asks for.

    The variance of an arm mean is q (v + ratio): q has a closed form, the ratio is searched on a grid.
    """
    curve, beyond = grid.log_curve(arms.sizes), grid.log_curve(arms.missed_sizes)
    residuals = arms.means - curve  # [g, k]
    ratios = _lack_ratios(arms)
    inverse = 1 / (arms.variances + ratios[:, None])  # [v, k]
    total = inverse.sum(axis=1)
    scale = residuals @ inverse.T / total  # [g, v]
    squares = np.maximum(residuals**2 @ inverse.T - scale**2 * total, 0)
    count = arms.degrees + len(arms.means) - restricted
    scatter = np.maximum((squares + arms.degrees) / count, NEAR_ZERO)  # q
    gain = 0.0
    if len(arms.missed_sizes):
        scale, scatter, squares, gain = _with_missed_arms(arms, beyond, ratios, scale, squares, total, count)
    deviance = count * np.log(scatter) + (squares + arms.degrees) / scatter - np.log(inverse).sum(axis=1) + gain
    if restricted:
        deviance = deviance + np.log(total)
    column = deviance.argmin(axis=1)
    row = np.arange(len(residuals))
    least = deviance[row, column]
    best = int(least.argmin())
    ratio, best_scatter = float(ratios[column[best]]), float(scatter[best, column[best]])
    return Profile(
        shapes=grid,
        deviance=least,
        log_scale=scale[row, column],
        scale_variance=scatter[row, column] / total[column],
        best=best,
        threshold=_threshold(arms, grid.model, ratio),
        lack_variance=ratio * best_scatter if arms.degrees else math.nan,
        weights=1 / (best_scatter * (arms.variances + ratio)),
    )


def _threshold(arms: ArmMeans, model: Model, ratio: float) -> float:
    """How much deviance the 95 % region may lose: that of Student's t, not of its large-sample limit 3.84.

    The variance has the arms' own degrees of freedom where lack of fit dominates, the trials' as well where it does
    not. The interpolation between the two is calibrated by simulation (docs/statistics.md).
    """
    if len(arms.means) <= model.parameters:
        return math.inf  # the curve goes through every arm: nothing is known of its lack of fit
    share = ratio / (float(arms.variances.mean()) + ratio)
    degrees = len(arms.means) - model.parameters + arms.degrees * (1 - share) ** 2
    t = float(special.stdtrit(degrees, (1 + CONFIDENCE) / 2))
    return (degrees + 1) * math.log1p(t * t / degrees)


def _lack_ratios(arms: ArmMeans) -> np.ndarray:
    """Lack-of-fit variances to try, in the unit of `arms.variances`; only 0 where it cannot be told from q."""
    if not arms.degrees:
        return np.zeros(1)
    most = 4 * max(float(np.ptp(arms.means)) ** 2, float(arms.variances.max()))
    least = min(0.05 * float(arms.variances.min()), most / 100)
    return np.concatenate([[0.0], np.geomspace(least, most, VARIANCE_RATIOS - 1)])


def _with_missed_arms(
    arms: ArmMeans,
    beyond: np.ndarray,
    ratios: np.ndarray,
    scale: np.ndarray,
    squares: np.ndarray,
    total: np.ndarray,
    count: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Add -2 log Phi((curve - stop) / sd) of each arm that never reached; the scale moves up to meet them.

    Newton's steps for the scale (the deviance is convex in it) alternate with the fixed point of q.
    Shapes: beyond [g, m], scale and squares [g, v]; here missed arms come first, [m, g, v].
    """
    best, at_best = scale, squares
    scatter = np.maximum((squares + arms.degrees) / count, NEAR_ZERO)
    sd = np.sqrt(arms.missed_variances[:, None] + ratios)[:, None, :]  # [m, 1, v]
    distance = (beyond - arms.missed_stops - arms.missed_shifts).T[:, :, None]  # [m, g, 1]
    for _ in range(16):
        root = np.sqrt(scatter) * sd
        z = (scale + distance) / root
        hazard = math.sqrt(2 / math.pi) / special.erfcx(z / -math.sqrt(2))  # phi(z) / Phi(z)
        slope = 2 * total / scatter * (scale - best) - 2 * (hazard / root).sum(axis=0)
        bend = 2 * total / scatter + 2 * (hazard * (hazard + z) / root**2).sum(axis=0)
        scale = scale - slope / bend
        squares = at_best + total * (scale - best) ** 2
        pull = np.maximum((hazard * z).sum(axis=0), -count / 2)
        scatter = np.maximum((squares + arms.degrees) / (count + pull), NEAR_ZERO)
    z = (scale + distance) / (np.sqrt(scatter) * sd)
    return scale, scatter, squares, -2 * special.log_ndtr(z).sum(axis=0)


def _sd_without_grid(reached: Mapping[int, Sequence[Observation]], sd: float) -> float:
    """The pooled sd less what rounding to the evaluation grid adds (Sheppard), never below a hundredth of the grid."""
    full = [data for data in reached.values() if len(data) > 1 and all(o.reached for o in data)]
    degrees = np.array([len(data) - 1 for data in full], float)
    grids = np.array([np.mean([(o.width / o.middle) ** 2 for o in data]) for data in full])
    grid = float(degrees @ grids / degrees.sum())
    return math.sqrt(max(sd**2 - grid / 12, grid / 10_000, NEAR_ZERO))


def _summary(data: Sequence[Observation], sd: float) -> tuple[float, float]:
    """Mean and variance of an arm's likelihood, read as a density of its mean log place."""
    logs = np.array([math.log(o.middle) for o in data if o.reached])
    if math.isnan(sd) or all(o.reached and not o.width for o in data):
        return float(logs.mean()), sd * sd / len(logs)
    widths = [o.width / o.middle for o in data if o.reached]
    reach = 8 * sd / math.sqrt(len(logs)) + max(widths) + (8 * sd if len(logs) < len(data) else 0.0)
    places = logs.mean() + np.linspace(-reach, reach, 401)
    likelihood = np.zeros(len(places))
    for o in data:
        if not o.reached:
            likelihood += special.log_ndtr((places - math.log(max(o.at_least, 1e-300))) / sd)
        elif o.width:
            left = math.log(o.left) if o.left else -math.inf
            likelihood += _log_mass((left - places) / sd, (math.log(o.place) - places) / sd)
        else:
            likelihood += -0.5 * ((math.log(o.place) - places) / sd) ** 2
    weight = np.exp(likelihood - likelihood.max())
    mean = float(places @ weight / weight.sum())
    return mean, float((places - mean) ** 2 @ weight / weight.sum())


def _log_mass(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """log(Phi(high) - Phi(low)), far tails included."""
    flip = low > 0  # the lower tail is where log_ndtr is exact
    low, high = np.where(flip, -high, low), np.where(flip, -low, high)
    upper = special.log_ndtr(high)
    return upper + np.log1p(-np.exp(np.minimum(special.log_ndtr(low) - upper, -1e-15)))


def _stops(data: Sequence[Observation], sd: float) -> tuple[float, float, float]:
    """(stop, shift, variance): Phi((mean - stop - shift) / sd) is about the chance that all n trials of an arm missed.

    They all missed where the least of n normal deviates is beyond the stop; that minimum is taken to be normal with
    its own mean and variance.
    """
    stop = float(np.mean([math.log(max(o.at_least, 1e-300)) for o in data]))
    if math.isnan(sd):
        return stop, 0.0, 1.0
    mean, variance = _largest_normal(len(data))
    return stop, sd * mean, sd * sd * variance


@lru_cache(maxsize=256)
def _largest_normal(n: int) -> tuple[float, float]:
    """Mean and variance of the largest of n standard normal deviates."""
    x = np.linspace(-8.0, 8.0, 4001)
    density = n * np.exp((n - 1) * special.log_ndtr(x) - 0.5 * x * x)
    mean = float(x @ density / density.sum())
    return mean, float((x - mean) ** 2 @ density / density.sum())
