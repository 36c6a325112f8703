"""Variance components of a one-way layout with random groups: how much varies within groups, how much between them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Components:
    """Standard deviations of the natural logarithm, so that 0.1 is about 10 %."""

    groups: int
    n: int
    sd_within: float
    sd_between: float  # 0 where the groups differ less than their members' spread explains
    p: float  # F test that the groups do not differ


def components(groups: Sequence[Sequence[float]]) -> Components | None:
    """ANOVA estimates on log for groups of one size; None unless two groups have two or more positive, finite values.

    The mean squares are E[MS within] = s_w^2 and E[MS between] = s_w^2 + m s_b^2 for m members a group.
    """
    sizes = {len(group) for group in groups}
    if len(groups) < 2 or len(sizes) != 1 or min(sizes) < 2:
        return None
    values = np.asarray(groups, dtype=float)
    if not (np.isfinite(values).all() and (values > 0).all()):
        return None
    logs = np.log(values)
    members = logs.shape[1]
    within = float(logs.var(axis=1, ddof=1).mean()) if np.ptp(values, axis=1).any() else 0.0
    between = members * float(logs.mean(axis=1).var(ddof=1))
    p = float(stats.f_oneway(*logs).pvalue) if within > 0 else math.nan
    return Components(len(groups), logs.size, math.sqrt(within), math.sqrt(max(0.0, (between - within) / members)), p)
