"""E(B) of each rule: the fitted curves, which of them the data choose, and where a bigger batch stops paying."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.analyse.arms import ArmFinding
from harness.analyse.results import TrialResult
from harness.statistics.critical_batch import CriticalBatchSize, Front, critical_batch_sizes, front
from harness.statistics.diagnosis import Choice, Outlier, choose, diagnose, outliers
from harness.statistics.estimates import Observation
from harness.statistics.fit_likelihood import Arms
from harness.statistics.fit_models import Model
from harness.statistics.fits import Fit, fit
from harness.statistics.trend import rise

LEAST_ARMS = 3  # two points lie on every curve of two parameters


@dataclass(frozen=True)
class RuleFit:
    """Places are examples to target; batch sizes are examples per update."""

    label: str
    fits: list[Fit]
    choice: Choice
    diagnosis: str
    shape: Model | None  # that the diagnosis finds; None where it finds none
    critical: list[CriticalBatchSize]  # by its definitions
    front: Front
    outliers: list[Outlier]

    @property
    def is_hyperbola(self) -> bool:
        """Whether E_min / S_min means something here: other shapes have no E_min."""
        return self.shape is Model.HYPERBOLA


def fit_rules(rows: Sequence[ArmFinding], results: Sequence[Sequence[TrialResult]]) -> list[RuleFit]:
    """A fit for every rule that reached at three TBS or more; `results[i]` are the trials of `rows[i]`."""
    arms: dict[str, dict[int, list[Observation]]] = {}
    for row, found in zip(rows, results, strict=True):
        if found:
            arms.setdefault(row.label, {})[row.total_batch_size] = [result.observation() for result in found]
    return [fit_curve(label, by_tbs) for label, by_tbs in arms.items() if reached_arms(by_tbs) >= LEAST_ARMS]


def reached_arms(by_tbs: Arms) -> int:
    """Total batch sizes at which some trial reached."""
    return sum(any(math.isfinite(o.place) for o in observations) for observations in by_tbs.values())


def fit_curve(label: str, arms: Arms, examples_per_unit: float = 1.0) -> RuleFit:
    """Every model through {TBS: trials}; `examples_per_unit` turns the unit of their places into examples."""
    fits = [fit(arms, model, examples_per_unit=examples_per_unit) for model in Model]
    diagnosis = diagnose(fits, rise(arms))
    return RuleFit(
        label=label,
        fits=fits,
        choice=choose(fits),
        diagnosis=diagnosis.sentence,
        shape=diagnosis.shape,
        critical=list(critical_batch_sizes(arms, rule=label)),
        front=front(arms, examples_per_unit),
        outliers=list(outliers(arms)),
    )
