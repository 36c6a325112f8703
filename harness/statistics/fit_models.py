"""The four curves E(B) that are fitted, written by how much they rise over the swept range.

Every curve is a scale times a shape, E(B) = E(low) * exp(g(B)), where low and high are the smallest and the largest
TBS of the sweep. The shape has one parameter, the rise log E(high)/E(low); the generalised hyperbola has a second, the
exponent a. With r = exp(rise):

    hyperbola    E_min (1 + B/B_crit)        linear in B:      exp(g) = 1 + (r - 1) (B - low) / (high - low)
    generalised  E_min (1 + (B/B_c)^a)       linear in B^a
    log-linear   E_1 + c log2(B)             linear in log B   (the generalised one's limit a -> 0)
    power law    E_1 B^b                     g = rise * log(B/low) / log(high/low)

The rise is what the data measure, and its bounds are the two ends at which B_crit leaves the sweep: no rise is
B_crit = infinity, r = high/low is B_crit = 0. A profile over it is well behaved where one over B_crit is not.
Hyperbola: McCandlish et al. 2018 (1812.06162), section 2.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

EXPONENTS = np.geomspace(0.25, 4.0, 41)  # of the generalised hyperbola; its grid is reported as open at both ends


class Model(StrEnum):
    """A family of curves E(B)."""

    HYPERBOLA = "hyperbola"
    GENERALISED = "generalised hyperbola"
    POWER_LAW = "power law"
    LOG_LINEAR = "log-linear"

    @property
    def parameters(self) -> int:
        """Free parameters of the curve: scale and shape."""
        return 3 if self is Model.GENERALISED else 2

    @property
    def has_minimum(self) -> bool:
        """Whether E tends to E_min for small B."""
        return self in (Model.HYPERBOLA, Model.GENERALISED)


@dataclass(frozen=True)
class Shapes:
    """A set of shapes of one model over one sweep; the arrays are float [g]."""

    model: Model
    low: float  # smallest TBS of the sweep
    high: float  # largest
    share: np.ndarray  # of the rises that the model allows, 0 ... 1
    exponent: np.ndarray  # 1 but for the generalised hyperbola

    @property
    def rise(self) -> np.ndarray:
        """log E(high) / E(low).

        The two hyperbolas rise by at least 0 and at most as B^a does. The others are bounded only to have a grid:
        they may fall by half and may rise by twice B^1.5.
        """
        steepest = math.log(self.high / self.low)
        if self.model.has_minimum:
            return self.share * self.exponent * steepest
        return -math.log(2) + self.share * (1.5 * steepest + 2 * math.log(2))

    def near(self, index: int, step: float, reach: float = 1.0) -> "Shapes":
        """A fine grid about one shape: `step` of share to either side, and `reach` steps of the exponent's grid.

        Another exponent starts from the share of the same rise: the rise is what data fix best.
        """
        shift = np.linspace(-step, step, 41)
        if self.model is not Model.GENERALISED:
            share = np.clip(self.share[index] + shift, 0.0, 1.0)
            return Shapes(self.model, self.low, self.high, share, np.ones(len(share)))
        factors = (EXPONENTS[1] / EXPONENTS[0]) ** np.linspace(-reach, reach, 21)
        exponent = np.repeat(np.clip(self.exponent[index] * factors, EXPONENTS[0], EXPONENTS[-1]), len(shift))
        share = self.share[index] * self.exponent[index] / exponent + np.tile(shift, len(factors))
        return Shapes(self.model, self.low, self.high, np.clip(share, 0.0, 1.0), exponent)

    def joined(self, other: "Shapes") -> "Shapes":
        """These shapes and those of `other`, of the same model and sweep."""
        share = np.concatenate([self.share, other.share])
        return Shapes(self.model, self.low, self.high, share, np.concatenate([self.exponent, other.exponent]))

    def log_curve(self, total_batch_sizes: np.ndarray) -> np.ndarray:
        """g(B) = log E(B) / E(low), float [g, B]; -infinity where an extrapolated curve is not positive."""
        sizes = np.asarray(total_batch_sizes, float)[None, :]
        if self.model is Model.POWER_LAW:
            return self.rise[:, None] * np.log(sizes / self.low) / math.log(self.high / self.low)
        value = 1 + np.expm1(self.rise)[:, None] * self._coordinate(sizes)
        return np.log(np.maximum(value, 1e-300))

    def parameters(self, examples_per_unit: float) -> dict[str, tuple[np.ndarray, bool]]:
        """The model's own parameters for each shape, float [g], and whether E(low) multiplies them.

        A value at the end of the grid stands for all beyond it: 0 or an infinity.
        """
        first = np.ones(len(self.share))
        if self.model is Model.LOG_LINEAR:
            per_doubling = np.expm1(self.rise) / math.log2(self.high / self.low)
            return {"E_smallest": (first, True), "rise_per_doubling": (per_doubling, True)}
        if self.model is Model.POWER_LAW:
            exponent = self.rise / math.log(self.high / self.low)
            exponent = np.where(self.share <= 0, -np.inf, np.where(self.share >= 1, np.inf, exponent))
            return {"E_smallest": (first, True), "exponent": (exponent, False)}
        critical = self.critical()
        with np.errstate(divide="ignore"):
            minimum = 1 / (1 + (self.low / critical) ** self.exponent)
        if self.model is Model.HYPERBOLA:
            fewest_steps = examples_per_unit / (self.low + critical)  # E_min / B_crit, finite at B_crit = 0
            return {"E_min": (minimum, True), "B_crit": (critical, False), "S_min": (fewest_steps, True)}
        exponent = np.where(self.exponent <= EXPONENTS[0], 0.0, self.exponent)
        exponent = np.where(self.exponent >= EXPONENTS[-1], np.inf, exponent)
        return {"E_min": (minimum, True), "B_c": (critical, False), "exponent": (exponent, False)}

    def critical(self) -> np.ndarray:
        """B_crit (E = 2 E_min) of each shape, float [g]; 0 and infinity are the ends of what a sweep can show."""
        rise = self.rise
        powers = self._power(self.high) - np.exp(rise) * self._power(self.low)
        with np.errstate(divide="ignore", over="ignore"):
            sizes = (np.maximum(powers, 0) / np.expm1(np.maximum(rise, 1e-300))) ** (1 / self.exponent)
        return np.where(self.share >= 1, 0.0, np.where(rise > 1e-12, sizes, np.inf))

    def size_at(self, overhead: float, reference: float) -> np.ndarray:
        """The TBS at which E is (1 + overhead) times what it is at `reference`, float [g]; infinity if never."""
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            if self.model is Model.POWER_LAW:
                slope = self.rise / math.log(self.high / self.low)
                return np.where(slope > 0, reference * np.exp(math.log1p(overhead) / slope), np.inf)
            over = np.expm1(self.rise)
            at_reference = 1 + over * self._coordinate(np.full((1, 1), float(reference)))[:, 0]
            place = ((1 + overhead) * at_reference - 1) / over  # on the coordinate in which the curve is a line
            if self.model is Model.LOG_LINEAR:
                sizes = self.low * np.exp(place * math.log(self.high / self.low))
            else:
                base = self._power(self.low)
                sizes = np.maximum(base + place * (self._power(self.high) - base), 0) ** (1 / self.exponent)
            return np.where(over > 0, sizes, np.inf)

    def _power(self, size: float) -> np.ndarray:
        return size**self.exponent

    def _coordinate(self, sizes: np.ndarray) -> np.ndarray:
        """0 at low, 1 at high; the curve is linear in it. [1, B] -> [g, B] or [1, B]."""
        if self.model is Model.LOG_LINEAR:
            return np.log(sizes / self.low) / math.log(self.high / self.low)
        a = self.exponent[:, None]
        return (sizes**a - self.low**a) / (self.high**a - self.low**a)


def shapes(model: Model, low: float, high: float, share: np.ndarray, exponents: np.ndarray = EXPONENTS) -> Shapes:
    """All shares with every exponent; `exponents` matter to the generalised hyperbola only."""
    if model is not Model.GENERALISED:
        return Shapes(model, low, high, share, np.ones(len(share)))
    return Shapes(model, low, high, np.tile(share, len(exponents)), np.repeat(exponents, len(share)))


def all_shapes(model: Model, low: float, high: float) -> Shapes:
    """A grid over everything that the model allows."""
    return shapes(model, low, high, np.linspace(0, 1, 201 if model is Model.GENERALISED else 801))
