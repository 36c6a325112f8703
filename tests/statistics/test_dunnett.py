"""Dunnett's quantile against published tables, scipy's multivariate t and its limits."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from harness.statistics.dunnett import dunnett_quantile, dunnett_tail


@pytest.mark.parametrize(
    ("comparisons", "degrees", "expected"),
    [(2, 10, 2.15), (5, 6, 2.83), (5, 8, 2.66), (5, 12, 2.50), (5, 24, 2.36), (9, 20, 2.60), (15, 32, 2.69)],
)
def test_quantiles_are_those_of_dunnetts_table(comparisons, degrees, expected):
    """Dunnett 1955, one-sided 5 %; 12, 24 and 32 are the pooled degrees of 6 and 16 arms of 3 and 5 seeds."""
    assert dunnett_quantile(comparisons, degrees) == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize(("comparisons", "degrees"), [(3, 2), (5, 6), (15, 20)])
def test_the_tail_is_that_of_the_multivariate_t(comparisons, degrees):
    shape = 0.5 * (np.eye(comparisons) + np.ones((comparisons, comparisons)))
    multivariate_t: Any = stats.multivariate_t
    law = multivariate_t(shape=shape, df=degrees, seed=0)
    assert dunnett_tail(2.5, comparisons, degrees) == pytest.approx(1 - law.cdf(np.full(comparisons, 2.5)), abs=2e-3)


def test_one_comparison_is_student_and_no_degrees_exclude_nothing():
    assert dunnett_quantile(1, 7, 0.025) == pytest.approx(stats.t.ppf(0.975, 7))
    assert dunnett_quantile(5, 0) == math.inf
    assert dunnett_quantile(0, 5) == math.inf


@pytest.mark.parametrize("degrees", [1, 2, 5.5, 40, 2000])
@pytest.mark.parametrize("level", [0.05, 0.025])
def test_a_quantile_grows_with_the_number_of_comparisons_and_has_its_tail(degrees, level):
    quantiles = [dunnett_quantile(k, degrees, level) for k in (1, 2, 3, 8, 40)]
    assert quantiles == sorted(quantiles)
    for k, quantile in zip((2, 3, 8, 40), quantiles[1:], strict=True):
        assert dunnett_tail(quantile, k, degrees) == pytest.approx(level, abs=1e-5)
