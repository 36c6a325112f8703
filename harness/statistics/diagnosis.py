"""What fits say in words: which curve the data choose, what its shape hints at, and trials that look like errors."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.statistics.fit_likelihood import Arms
from harness.statistics.fit_models import Model
from harness.statistics.fits import LEAST_ARMS_FOR_AICC, Fit
from harness.statistics.trend import Direction, Trend
from harness.statistics.words import count, p_value, percent

UNDECIDED = 2.0  # AICc differences below this do not choose
CLEARLY = 2.0  # ratio of left-out errors from which a shape is worth a sentence
NOTICEABLE = 0.05  # left-out error from which a hyperbola that misses is worth a sentence
POOR = 0.15  # log error, rms or left-out, above which no curve is called a description
FAR = 5.0  # robust standard deviations from the arm's median at which a trial raises the alarm
LEAST_SPREAD = 0.01  # on the log: a robust sd of 0 (ties) must not make every other trial an outlier


@dataclass(frozen=True)
class Choice:
    """Which curve the data choose."""

    model: Model | None  # None: they do not choose
    aicc_differences: dict[str, float]  # to the best, by model; empty below 7 arms
    sentence: str


@dataclass(frozen=True)
class Diagnosis:
    """What the shape of E(B) hints at."""

    shape: Model | None  # the curve that describes the sweep; None where none is seen to
    sentence: str


@dataclass(frozen=True)
class Outlier:
    """A trial far from the others of its arm: look at it before believing the arm."""

    total_batch_size: int
    index: int  # among the arm's trials, as given
    value: float
    ratio: float  # to the arm's median
    deviations: float  # robust standard deviations of log place, pooled over arms


def choose(fits: Sequence[Fit]) -> Choice:
    """By AICc, from 7 arms on, and only beyond a difference of 2."""
    scored = sorted((fit for fit in fits if not math.isnan(fit.quality.aicc)), key=lambda fit: fit.quality.aicc)
    if len(scored) < 2:
        most = max((fit.arms + fit.missed_arms for fit in fits), default=0)
        return Choice(
            None, {}, f"The data do not choose a curve: {count(most, 'arm')}, and it takes {LEAST_ARMS_FOR_AICC}."
        )
    best = scored[0]
    differences = {str(fit.model): fit.quality.aicc - best.quality.aicc for fit in scored}
    close = [fit.model for fit in scored[1:] if differences[str(fit.model)] < UNDECIDED]
    if close:
        names = " and ".join(str(model) for model in [best.model, *close])
        return Choice(None, differences, f"The data do not choose between {names} (AICc within {UNDECIDED:g}).")
    gap = differences[str(scored[1].model)]
    return Choice(
        best.model, differences, f"The data choose the {best.model} (next: {scored[1].model}, AICc +{gap:.1f})."
    )


def diagnose(fits: Sequence[Fit], trend: Trend) -> Diagnosis:
    """The shape of E(B), by the error in predicting each arm from the others, where E rises at all.

    `trend` of the same trials says whether it does; without replicates enough to tell, a curve that is not flat does.
    The shape is a hint, not a test: an LR tuned at every TBS gives a hyperbola in theory and in most published
    sweeps, while a curve linear in log2 B is what a sweep with one LR or one fixed rule tends to look like.
    """
    by_model = {fit.model: fit for fit in fits if fit.parameters}
    hyperbola = by_model.get(Model.HYPERBOLA)
    if hyperbola is None:
        return Diagnosis(None, f"No curve: fewer than two arms reached the target{_although(trend)}.")
    if math.isnan(hyperbola.quality.left_out_error):
        return Diagnosis(
            None,
            f"No diagnosis of the shape: {count(hyperbola.arms, 'arm')} reached the target, and it takes three"
            f"{_although(trend)}.",
        )
    if trend.established and trend.direction is Direction.FALLING:
        return Diagnosis(
            None, f"E falls with TBS (trend test, {p_value(trend.p)}): a larger batch needs less data here."
        )
    if not (trend.rises or (not trend.can_decide and _excludes_flat(by_model))):
        by = f"by the trend test ({p_value(trend.p)})" if trend.can_decide else "by this sweep"
        return Diagnosis(None, f"No rise of E with TBS is established {by}, which does not say that there is none.")
    errors = {model: fit.quality.left_out_error for model, fit in by_model.items() if fit.quality.left_out_error >= 0}
    least, own = min(fit.quality.rms_error for fit in by_model.values()), errors[Model.HYPERBOLA]
    nearest = min(errors, key=lambda model: errors[model])
    if least > POOR or errors[nearest] > POOR:
        return Diagnosis(
            None,
            f"No curve is shown to describe the sweep (rms error {percent(least)}, left-out error "
            f"{percent(errors[nearest])} at best): its arms differ in more than TBS, or are too few or too noisy.",
        )
    rival = min((Model.LOG_LINEAR, Model.POWER_LAW), key=lambda model: errors.get(model, math.inf))
    if own >= NOTICEABLE and own > CLEARLY * errors.get(rival, math.inf) and errors[rival] <= POOR:
        numbers = f"left-out error {percent(errors[rival], digits=1)} against {percent(own, digits=1)} of the hyperbola"
        if rival is Model.LOG_LINEAR:
            return Diagnosis(Model.LOG_LINEAR, f"Log-linear: the LR is probably not tuned per TBS ({numbers}).")
        return Diagnosis(
            Model.POWER_LAW,
            f"Power law: every doubling costs the same factor, and no region of free scaling is seen ({numbers}).",
        )
    if own > POOR:
        return Diagnosis(
            None,
            f"No curve is singled out: the hyperbola misses left-out arms by {percent(own)}, the {nearest} by "
            f"{percent(errors[nearest])}.",
        )
    if own >= NOTICEABLE and hyperbola.quality.lack_of_fit_p < 0.05:
        return Diagnosis(
            Model.HYPERBOLA,
            f"The hyperbola misses arms by more than their seeds explain ({percent(own, digits=1)} left out), probably "
            "because of tuning; its intervals include that lack of fit.",
        )
    return Diagnosis(Model.HYPERBOLA, f"A hyperbola describes the sweep (left-out error {percent(own, digits=1)}).")


def _although(trend: Trend) -> str:
    return f"; a rise of E with TBS is established (trend test, {p_value(trend.p)})" if trend.rises else ""


def _excludes_flat(fits: Mapping[Model, Fit]) -> bool:
    """Whether the hyperbola or the power law excludes a flat curve."""
    power_law = fits.get(Model.POWER_LAW)
    return fits[Model.HYPERBOLA]["B_crit"].interval.high < math.inf or (
        power_law is not None and power_law["exponent"].interval.low > 0
    )


def outliers(arms: Arms) -> tuple[Outlier, ...]:
    """Trials more than 5 robust standard deviations (pooled over arms) from the median of their own arm.

    The deviation is never taken below that of the evaluation grid: a neighbouring evaluation is no outlier.
    """
    found, distances = [], []
    for size, observations in arms.items():
        logs = {i: math.log(o.middle) for i, o in enumerate(observations) if o.has_log}
        if len(logs) < 3:
            continue
        median = float(np.median(list(logs.values())))
        distances += sorted(abs(value - median) for value in logs.values())[1:]  # the median itself says nothing
        grid = max(o.width / o.middle for o in observations if o.has_log) / math.sqrt(12)
        found += [(size, i, value - median, grid) for i, value in logs.items()]
    if not distances:
        return ()
    pooled = max(1.4826 * float(np.median(distances)), LEAST_SPREAD)
    return tuple(
        Outlier(size, i, arms[size][i].value, math.exp(distance), abs(distance) / max(pooled, grid))
        for size, i, distance, grid in found
        if abs(distance) > FAR * max(pooled, grid)
    )
