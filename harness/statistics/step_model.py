"""Seconds of one update on n devices at micro-batch m with s accumulation steps, from few timings.

    T(n, m, s) = s (a + b m) + c_in [n > 1] + c_out [n > per_node] + g (a + b m) log2(n / n0)

a + b m is a micro-step of one data-parallel replica; c_in and c_out are the exposed communication and the optimizer,
once per update, inside a node and across nodes; g is what grows with n although nothing explains it. n0 is the
smallest n timed. With the seconds of an all-reduce alone (links.py), c_out is a share of them instead. All parameters
are positive, with priors that are wide except for g; they are drawn from their posterior under Student-t noise, so one
bad point does not move them. A parameter that the timings do not
determine keeps its prior and is named in `pinned`. Communication adds to computation (an overlap exponent of 1): total
times alone do not tell how much is hidden, and `c` is what is left exposed.

The unit is m. Accumulation at a timed m is no extrapolation. Since T rises with m and T / m falls with m, a time at
m < m0, the smallest m timed, lies in [T(m0) m / m0, T(m0)]; the same holds above the largest, upside down. Down to half
of m0 there is a point as well; below there is none (P32).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from scipy import optimize, special

Array = np.ndarray[Any, np.dtype[np.float64]]

DRAWS = 2000
NOISE = 0.015  # standard deviation of the log of one timing about the law, next to its own spread
TAIL = 4.0  # degrees of freedom of that noise
DRIFT = 0.01  # and of the law itself, per doubling of n beyond the largest n timed
SYSTEM_SD = 0.03  # of one system (submitter, cluster) about the others of a series
# Medians and log standard deviations of the priors, in units of a micro-step at m0.
FIXED, FIXED_SD = 0.1, 2.0  # a, where several m were timed
FIXED_ALONE, FIXED_ALONE_SD = 0.05, 1.0  # a, where one was
ONCE, ONCE_SD = 0.03, 2.0  # c_in and c_out
SHARE, SHARE_SD = 0.3, 1.0  # c_out as a share of an all-reduce alone
GROWTH, GROWTH_SD = 0.012, 0.6  # g
WALKERS, BURN_IN, THIN = 80, 300, 8
START = 0.1  # spread of the walkers at first, in standard deviations of the priors
PINNED = 0.8  # a parameter that keeps this share of its prior's standard deviation is pinned
FURTHEST = 2.0  # how far below the smallest m (above the largest) there is a point
SAME = 1e-6  # relative difference of two micro-batches that are one


class Kind(StrEnum):
    """What a number rests on (P32)."""

    MEASURED = "measured"  # this n and m were timed
    INTERPOLATED = "interpolated"  # within the n and the m that were timed
    EXTRAPOLATED = "extrapolated"  # beyond the n, or up to a factor of 2 beyond the m
    ASSUMED = "assumed"  # it rests on a table of links, not on a timing across nodes
    BRACKETED = "bracketed"  # further beyond the m: no point


@dataclass(frozen=True)
class StepRow:
    """One timing."""

    devices: int
    micro_batch: float  # examples of one replica in one micro-step
    accumulation: float
    seconds: float  # of one update
    relative_sd: float = 0.0  # standard deviation of the log of `seconds`, where it is known
    system: str = ""


@dataclass(frozen=True)
class StepPrediction:
    """Seconds of one update."""

    kind: Kind
    seconds: float | None  # median of the draws; None where there is only a bracket
    draws: Array  # of a timing there, from the joint draws of the model; uniform in log within a bracket alone
    low: float  # 95 %
    high: float

    @property
    def half_width(self) -> float:
        """Of the interval, relative."""
        return math.sqrt(self.high / self.low) - 1

    def interval(self, coverage: float) -> tuple[float, float]:
        low, high = np.quantile(self.draws, [(1 - coverage) / 2, (1 + coverage) / 2])
        return float(low), float(high)


@dataclass(frozen=True)
class StepModel:
    """The fitted law: draws of its parameters and the timings it rests on."""

    rows: tuple[StepRow, ...]
    per_node: int
    all_reduce: Callable[[int], float] | None  # seconds of an all-reduce alone on n devices, by the table of links
    parameters: Array  # [draw, parameter], natural scale: a, micro-step at m0 without a, g, c_in, c_out, then systems
    pinned: tuple[str, ...]
    systems: tuple[str, ...]
    noise: Array  # [draw], Student's t, of the timing that is predicted
    drift: Array  # [draw], standard normal, of the law beyond the timed n
    stranger: Array  # [draw], standard normal, of a system that was not timed

    @property
    def smallest_micro_batch(self) -> float:
        return min(row.micro_batch for row in self.rows)

    @property
    def largest_micro_batch(self) -> float:
        return max(row.micro_batch for row in self.rows)

    @property
    def largest_devices(self) -> int:
        return max(row.devices for row in self.rows)

    def predict(
        self, devices: int, micro_batch: float, accumulation: float = 1.0, system: str | None = None
    ) -> StepPrediction:
        """At micro-batches that were not timed, from the nearest one that was, within the bracket."""
        nearest = min(max(micro_batch, self.smallest_micro_batch), self.largest_micro_batch)
        factor = micro_batch / nearest
        draws = self._draws(devices, nearest, accumulation, system)
        if abs(factor - 1) <= SAME:
            return _prediction(self._kind(devices, micro_batch), draws)
        # T(m) lies between T(nearest) and T(nearest) m / nearest, in either direction.
        ends = np.sort([np.log(draws), np.log(draws * factor)], axis=0)
        if not 1 / FURTHEST - SAME <= factor <= FURTHEST + SAME:
            spread = special.ndtr(self.drift)  # uniform, and the same for neighbouring predictions
            return _prediction(Kind.BRACKETED, np.exp(ends[0] + spread * (ends[1] - ends[0])), ends)
        inside = np.clip(np.log(self._draws(devices, micro_batch, accumulation, system)), *ends)
        return _prediction(Kind.EXTRAPOLATED, np.exp(inside), ends)

    def _kind(self, devices: int, micro_batch: float) -> Kind:
        timed = {row.devices for row in self.rows if abs(row.micro_batch / micro_batch - 1) <= SAME}
        if devices in timed:
            return Kind.MEASURED
        everywhere = [row.devices for row in self.rows]
        if min(everywhere) <= devices <= max(everywhere):
            return Kind.INTERPOLATED
        crosses_first = devices > self.per_node >= max(everywhere)
        return Kind.ASSUMED if crosses_first and self.all_reduce is not None else Kind.EXTRAPOLATED

    def law(self, devices: int, micro_batch: float, accumulation: float, system: str | None = None) -> Array:
        """Draws of the law itself, without the noise of one timing; no check of what was timed."""
        law = _law(self.parameters, _design(self, devices, micro_batch, accumulation))
        doublings = max(0.0, math.log2(devices / self.largest_devices))
        error = DRIFT * doublings * self.drift
        if self.systems and system in self.systems:
            error = error + np.log(self.parameters[:, 5 + self.systems.index(system)])
        elif self.systems and system is not None:
            error = error + SYSTEM_SD * self.stranger
        return law * np.exp(error)

    def _draws(self, devices: int, micro_batch: float, accumulation: float, system: str | None) -> Array:
        return self.law(devices, micro_batch, accumulation, system) * np.exp(NOISE * self.noise)


def fit_step_model(
    rows: Sequence[StepRow],
    per_node: int = 8,
    all_reduce: Callable[[int], float] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> StepModel:
    """From one timing or more; the same timings give the same draws."""
    if not rows:
        raise ValueError("a step-time model needs at least one timing")
    systems = tuple(dict.fromkeys(row.system for row in rows)) if len({row.system for row in rows}) > 1 else ()
    names, centre, sd = _priors(rows, all_reduce, len(systems))
    empty = np.zeros(0)
    bare = StepModel(tuple(rows), per_node, all_reduce, np.zeros((0, 0)), (), systems, empty, empty, empty)
    design = np.array([_design(bare, r.devices, r.micro_batch, r.accumulation) for r in rows])
    log_seconds = np.log([row.seconds for row in rows])
    noise = np.hypot(NOISE, [row.relative_sd for row in rows])
    of = [5 + systems.index(row.system) if systems else -1 for row in rows]

    def misfit(unit: Array) -> Array:
        """Minus the log density of each timing under parameters [walker, parameter] in units of their priors."""
        parameters = _natural(centre + sd * unit)
        law = np.log(_law(parameters[:, None], design))
        offset = np.log(parameters[:, of]) if systems else 0.0
        error = (law + offset - log_seconds) / noise
        return (TAIL + 1) / 2 * np.log1p(error**2 / TAIL)

    def log_density(unit: Array) -> Array:
        return -misfit(unit).sum(axis=1) - 0.5 * (unit**2).sum(axis=1)

    # The sampler starts at the mode: walkers that start where a good timing is an outlier would stay there.
    mode = optimize.least_squares(
        lambda unit: np.concatenate([np.sqrt(2 * misfit(unit[None])[0]), unit]), np.zeros(len(centre))
    ).x
    rng = np.random.default_rng(seed)
    unit = posterior_draws(log_density, mode, draws, rng)
    pinned = tuple(name for name, spread in zip(names, unit.std(axis=0), strict=False) if name and spread > PINNED)
    again, drift, stranger = rng.standard_t(TAIL, draws), *rng.standard_normal((2, draws))
    return StepModel(
        tuple(rows), per_node, all_reduce, _natural(centre + sd * unit), pinned, systems, again, drift, stranger
    )


def posterior_draws(log_density: Callable[[Array], Array], start: Array, draws: int, rng: np.random.Generator) -> Array:
    """By the affine-invariant ensemble of Goodman and Weare (2010) from a point, float [draw, parameter]."""
    half, parameters = WALKERS // 2, len(start)
    walkers = start + START * rng.standard_normal((WALKERS, parameters))
    values = log_density(walkers)
    kept: list[Array] = []
    wanted = math.ceil(draws / WALKERS)
    for step in range(BURN_IN + THIN * wanted):
        for mine, others in ((slice(0, half), slice(half, None)), (slice(half, None), slice(0, half))):
            stretch = (1 + rng.random(half)) ** 2 / 2  # density 1 / sqrt(z) on [1/2, 2]
            partners = walkers[others][rng.permutation(half)]
            moved = partners + stretch[:, None] * (walkers[mine] - partners)
            new = log_density(moved)
            accepted = np.log(rng.random(half)) < (parameters - 1) * np.log(stretch) + new - values[mine]
            walkers[mine] = np.where(accepted[:, None], moved, walkers[mine])
            values[mine] = np.where(accepted, new, values[mine])
        if step >= BURN_IN and (step - BURN_IN) % THIN == THIN - 1:
            kept.append(walkers.copy())
    return np.concatenate(kept)[:draws]


def _priors(
    rows: Sequence[StepRow], all_reduce: Callable[[int], float] | None, systems: int
) -> tuple[list[str], Array, Array]:
    """Names, centres and standard deviations of the parameters as _natural takes them; a name is empty where no reader
    has to know of it."""
    smallest = min(row.micro_batch for row in rows)
    step = float(np.median([row.seconds / row.accumulation * smallest / row.micro_batch for row in rows]))
    several = max(row.micro_batch for row in rows) > smallest * (1 + SAME)
    share, share_sd = (FIXED, FIXED_SD) if several else (FIXED_ALONE, FIXED_ALONE_SD)
    across = (SHARE, SHARE_SD) if all_reduce is not None else (ONCE * step, ONCE_SD)
    names = ["", "fixed part of a micro-step", "growth with devices", "communication inside a node", "across nodes"]
    centre = [math.log(step), float(special.logit(share)), *map(math.log, (GROWTH, ONCE * step, across[0]))]
    sd = [1.0, share_sd, GROWTH_SD, ONCE_SD, across[1]]
    return names, np.array([*centre, *[0.0] * systems]), np.array([*sd, *[SYSTEM_SD] * systems])


def _natural(transformed: Array) -> Array:
    """Parameters [..., parameter]: log micro-step at m0, logit of its fixed share, then logs."""
    natural = np.exp(transformed)
    natural[..., 1] = special.expit(transformed[..., 1])
    return natural


def ring_share(members: int) -> float:
    """What every link of a ring carries, in units of the payload: 0 for one member, 1 for two, near 2 for many."""
    return 2 * (members - 1) / members


def _design(model: StepModel, devices: int, micro_batch: float, accumulation: float) -> Array:
    """What multiplies the parameters: s, s m / m0, log2(n / n0), whether c_in and c_out count; m / m0."""
    rows = model.rows
    smallest, fewest = min(row.micro_batch for row in rows), min(row.devices for row in rows)
    # Without a timing of one device, communication inside a node cannot be told from the micro-step: it is part of it.
    inside = ring_share(min(devices, model.per_node)) if fewest == 1 else 0.0
    # Nor can communication across nodes, where every timing has some and accumulates alike.
    apart = fewest <= model.per_node or len({row.accumulation for row in rows}) > 1
    outside = ring_share(math.ceil(devices / model.per_node)) if apart else 0.0
    if outside and model.all_reduce is not None:
        outside = model.all_reduce(devices)
    growth = math.log2(devices / fewest)
    return np.array([accumulation, micro_batch / smallest, growth, inside, outside])


def _law(parameters: Array, design: Array) -> Array:
    """Seconds; parameters [..., parameter] and designs [..., 5] broadcast."""
    accumulation, relative, growth, inside, outside = np.moveaxis(design, -1, 0)
    micro, share, per_doubling, within, across = np.moveaxis(parameters[..., :5], -1, 0)
    micro = micro * (share + (1 - share) * relative)
    return micro * (accumulation + per_doubling * growth) + within * inside + across * outside


def _prediction(kind: Kind, draws: Array, ends: Array | None = None) -> StepPrediction:
    """With the 95 % interval of the draws, or of the ends (log) of a bracket."""
    low, middle, high = np.quantile(draws, [0.025, 0.5, 0.975])
    if ends is not None:
        low, high = math.exp(np.quantile(ends[0], 0.025)), math.exp(np.quantile(ends[1], 0.975))
    return StepPrediction(kind, None if kind is Kind.BRACKETED else float(middle), draws, float(low), float(high))
