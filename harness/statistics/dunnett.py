"""Dunnett's one-sided quantile (1955): how far the largest of several t statistics against one common arm strays."""

import math
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import optimize, special

NODES = 64  # of each quadrature; 32 agree with them to 1e-6
OUTSIDE = 1e-12  # probability of the scales left out at either end


@lru_cache(maxsize=4096)
def dunnett_quantile(comparisons: int, degrees: float, level: float = 0.05) -> float:
    """c with P(the largest of `comparisons` t statistics, correlated by 1/2, > c) = level; infinity if undefined."""
    if comparisons < 1 or not degrees > 0:
        return math.inf
    single = float(special.stdtrit(degrees, 1 - level))
    if comparisons == 1:
        return single
    bonferroni = float(special.stdtrit(degrees, 1 - level / comparisons))
    root: Any = optimize.brentq(lambda c: dunnett_tail(c, comparisons, degrees) - level, single, bonferroni, xtol=1e-7)
    return float(root)


def dunnett_tail(statistic: float, comparisons: int, degrees: float) -> float:
    """P(the largest of the t statistics > `statistic`), each (Z_j - Z_0) / (sqrt(2) S) with a common Z_0 and S."""
    common, common_weights = _normal_nodes()
    scales, scale_weights = _scale_nodes(degrees)
    within = special.ndtr(math.sqrt(2) * statistic * scales[:, None] + common) ** comparisons
    return 1 - float(scale_weights @ within @ common_weights)


@lru_cache(maxsize=1)
def _normal_nodes() -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    return nodes, weights / weights.sum()


@lru_cache(maxsize=256)
def _scale_nodes(degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """S = sqrt(chi-squared / degrees) by Gauss-Legendre quadrature."""
    low = math.sqrt(2 * special.gammaincinv(degrees / 2, OUTSIDE))
    high = math.sqrt(2 * special.gammainccinv(degrees / 2, OUTSIDE))
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    nodes = low + (nodes + 1) / 2 * (high - low)
    log_density = (degrees - 1) * np.log(nodes) - nodes**2 / 2
    weights = weights * np.exp(log_density - log_density.max())
    return nodes / math.sqrt(degrees), weights / weights.sum()
