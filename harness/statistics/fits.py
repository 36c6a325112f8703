"""Fits of E(B), what the target costs against TBS: parameters and curve with intervals, and how good the curve is.

Intervals are profile likelihood with lack of fit (fit_likelihood.py); beside them a parametric bootstrap that draws
arms about the curve, not only seeds about their arms: a bootstrap over seeds alone claims +-1 % where the curve
itself misses the arms by 4 %.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from harness.plan.counted import count
from harness.statistics.estimates import CONFIDENCE, Interval
from harness.statistics.fit_likelihood import ArmMeans, Arms, Profile, arm_means, profile, profile_over
from harness.statistics.fit_models import Model, Shapes, all_shapes, shapes

LEAST_ARMS_FOR_AICC = 7
BOOTSTRAP_DRAWS = 1000
CURVE_POINTS = 33


@dataclass(frozen=True)
class Parameter:
    """A fitted number with its profile-likelihood interval, the bootstrap's beside it.

    E_min, E_smallest (at the smallest TBS) and rise_per_doubling are in the unit of the places, B_crit and B_c in
    examples per update, S_min in updates; exponents have none.
    """

    name: str
    value: float
    interval: Interval
    bootstrap: Interval | None  # None where an arm never reached: it cannot be drawn


@dataclass(frozen=True)
class CurvePoint:
    """The fitted E at one TBS, with a pointwise 95 % interval of the curve (not of a new trial)."""

    total_batch_size: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Quality:
    """How well a curve describes the arms; nan where there are too few arms or replicates to say."""

    within_sd: float  # of one trial's log place, pooled over arms: about the coefficient of variation
    lack_sd: float  # of an arm's mean about the curve beyond what its seeds explain, on the log
    lack_of_fit_p: float  # pure-error F test: small says that the curve misses the arms
    rms_error: float  # of log arm means about an unweighted fit: the number to compare with publications
    left_out_error: float  # rms log error in predicting each arm from the others
    aicc: float  # for 7 arms or more; only differences mean something


@dataclass(frozen=True)
class Fit:
    """One curve through the arms of a sweep."""

    model: Model
    parameters: tuple[Parameter, ...]  # empty where `reason` says why there is no fit
    curve: tuple[CurvePoint, ...]
    quality: Quality
    arms: int  # with a trial that reached
    missed_arms: int  # in which none did: the curve has to lie beyond their stops
    excluded: tuple[str, ...]
    reason: str

    def __getitem__(self, name: str) -> Parameter:
        """The parameter of that name; KeyError if there is none."""
        return {parameter.name: parameter for parameter in self.parameters}[name]


def fit(arms: Arms, model: Model, *, examples_per_unit: float = 1.0, at: Sequence[float] = ()) -> Fit:
    """Fit one curve to {TBS: trials}.

    `examples_per_unit` turns the unit of the places into examples (the training-set size for epochs), which S_min
    needs; `at` are the TBS of `curve`, by default evenly spaced in log over the sweep.
    """
    summary = arm_means(arms)
    found, parameters, curve, reason = None, (), (), ""
    if len(summary.means) < model.parameters:
        reason = (
            f"a {model} has {model.parameters} parameters, but {count(len(summary.means), 'arm')} reached the target"
        )
    else:
        found = profile(summary, model)
        low, high = found.shapes.low, found.shapes.high
        parameters = _parameters(summary, found, examples_per_unit)
        curve = _curve(found, np.asarray(at, float) if len(at) else np.geomspace(low, high, CURVE_POINTS))
    return Fit(
        model=model,
        parameters=parameters,
        curve=curve,
        quality=_quality(summary, found),
        arms=len(summary.means),
        missed_arms=len(summary.missed_sizes),
        excluded=summary.excluded,
        reason=reason,
    )


def _parameters(arms: ArmMeans, found: Profile, examples_per_unit: float) -> tuple[Parameter, ...]:
    drawn = _bootstrap(arms, found, examples_per_unit)
    scale = math.exp(found.log_scale[found.best])
    parameters = []
    for name, (values, scaled) in found.shapes.parameters(examples_per_unit).items():
        low, high = found.scaled_interval(values) if scaled else found.interval(values)
        value = float(values[found.best]) * (scale if scaled else 1.0)
        interval = Interval(low, high, CONFIDENCE, "profile likelihood")
        parameters.append(Parameter(name, value, interval, drawn.get(name)))
    return tuple(parameters)


def _curve(found: Profile, sizes: np.ndarray) -> tuple[CurvePoint, ...]:
    factors = np.exp(found.shapes.log_curve(sizes))
    scale = math.exp(found.log_scale[found.best])
    ends = [found.scaled_interval(column) for column in factors.T]
    values = scale * factors[found.best]
    return tuple(
        CurvePoint(float(size), float(value), low, high)
        for size, value, (low, high) in zip(sizes, values, ends, strict=True)
    )


def _bootstrap(arms: ArmMeans, found: Profile, examples_per_unit: float) -> dict[str, Interval]:
    """Percentile intervals of the parameters over redrawn arm means; empty where an arm never reached.

    A draw is the fitted curve plus normal noise of each arm's whole variance, refitted with the same weights.
    """
    if len(arms.missed_sizes):
        return {}
    rng = np.random.default_rng(0)  # the report of a study does not change from call to call
    centre = found.log_scale[found.best] + found.shapes.log_curve(arms.sizes)[found.best]
    draws = centre + rng.standard_normal((BOOTSTRAP_DRAWS, len(centre))) / np.sqrt(found.weights)
    region = found.shapes.share[found.inside]
    share = np.linspace(max(2 * region.min() - region.max(), 0.0), min(2 * region.max() - region.min(), 1.0), 201)
    grid = shapes(found.shapes.model, found.shapes.low, found.shapes.high, share)
    curves, total = grid.log_curve(arms.sizes), found.weights.sum()
    level = curves @ found.weights / total
    forms = curves - level[:, None]
    # Weighted squares of every draw about every curve, less the draw's own, which no choice of a curve changes.
    squares = (draws * found.weights) @ (-2 * forms.T)
    squares += forms**2 @ found.weights
    best = squares.argmin(axis=1)
    scale = np.exp(draws @ found.weights / total - level[best])
    tails = [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)]
    intervals = {}
    for name, (values, scaled) in grid.parameters(examples_per_unit).items():
        low, high = np.percentile(values[best] * (scale if scaled else 1.0), tails, method="inverted_cdf")
        intervals[name] = Interval(float(low), float(high), CONFIDENCE, "bootstrap over arms and seeds")
    return intervals


def weighted_squares(log_means: np.ndarray, weights: np.ndarray, curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted squares of log means [d, k] about each curve [g, k] at its best scale, and that scale; both [d, g]."""
    total = weights.sum()
    mean, level = log_means @ weights / total, curves @ weights / total
    deviations, forms = log_means - mean[:, None], curves - level[:, None]
    squares = (deviations**2 @ weights)[:, None] - 2 * (deviations * weights) @ forms.T + (forms**2 @ weights)[None, :]
    return np.maximum(squares, 0.0), mean[:, None] - level[None, :]


def _quality(arms: ArmMeans, found: Profile | None) -> Quality:
    if found is None:
        return Quality(arms.within_sd, math.nan, math.nan, math.nan, math.nan, math.nan)
    grid = all_shapes(found.shapes.model, found.shapes.low, found.shapes.high)
    count, parameters = len(arms.means), found.shapes.model.parameters
    lack_of_fit = math.nan
    if arms.degrees and count > parameters:
        statistic = _least_squares(arms, 1 / arms.variances, grid)[0] / (count - parameters)
        lack_of_fit = float(special.fdtrc(count - parameters, arms.degrees, statistic))
    return Quality(
        within_sd=arms.within_sd,
        lack_sd=math.sqrt(found.lack_variance) if arms.degrees else math.nan,
        lack_of_fit_p=lack_of_fit,
        rms_error=math.sqrt(_least_squares(arms, np.ones(count), grid)[0] / count),
        left_out_error=_left_out_error(arms, found.weights, grid) if count > parameters else math.nan,
        aicc=_aicc(arms, found.shapes),
    )


def _least_squares(arms: ArmMeans, weights: np.ndarray, grid: Shapes) -> tuple[float, np.ndarray]:
    """The least weighted squares about any curve of the grid's model, and that curve at the arms (log)."""

    def search(grid: Shapes) -> tuple[int, float, np.ndarray]:
        curves = grid.log_curve(arms.sizes)
        squares, scales = weighted_squares(arms.means[None], weights, curves)
        best = int(squares[0].argmin())
        return best, float(squares[0, best]), curves[best] + scales[0, best]

    step = float(grid.share[1] - grid.share[0])
    for reach in (1.0, 0.1):
        grid = grid.near(search(grid)[0], reach * step, reach)
    return search(grid)[1:]


def _left_out_error(arms: ArmMeans, weights: np.ndarray, grid: Shapes) -> float:
    """Root mean square of log(observed / predicted from the other arms)."""
    errors = []
    for i in range(len(arms.means)):
        others = np.where(np.arange(len(weights)) == i, 0.0, weights)
        errors.append(arms.means[i] - _least_squares(arms, others, grid)[1][i])
    return math.sqrt(float(np.mean(np.square(errors))))


def _aicc(arms: ArmMeans, grid: Shapes) -> float:
    """Corrected Akaike criterion over arms (Hurvich and Tsai 1989); the variance counts as a parameter."""
    count, parameters = len(arms.means) + len(arms.missed_sizes), grid.model.parameters + 1
    if count < LEAST_ARMS_FOR_AICC:
        return math.nan
    deviance = float(profile_over(arms, grid, restricted=False).deviance.min())
    return deviance + 2 * parameters + 2 * parameters * (parameters + 1) / (count - parameters - 1)
