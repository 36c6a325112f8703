"""From which total batch size a published target costs more data: without a fitted curve, then under one."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.analyse.rule_fits import RuleFit, reached_arms
from harness.analyse.sections import Table
from harness.plan.errors import UserError
from harness.published.curves import Meaning, PublishedCurve
from harness.statistics import critical_batch, words
from harness.statistics.critical_batch import (
    OVERHEAD,
    CriticalBatchSize,
    critical_by_hyperbola,
    critical_by_overhead,
)
from harness.statistics.doubling import CostRise, Status, cost_rise

DOUBLING = 1.0  # the overhead at which a target costs twice the data
MOST_OVERHEAD = 10.0  # more is a percentage that was meant as one


@dataclass(frozen=True)
class Overhead:
    """What a user asks for: a share of more data (None: 100 % and 20 %), over a TBS (None: the cheapest arm)."""

    share: float | None = None
    reference: int | None = None

    def __post_init__(self) -> None:
        if self.share is not None and not 0 < self.share <= MOST_OVERHEAD:
            raise UserError(f"--overhead must be > 0 and at most {MOST_OVERHEAD:g} (0.2 is 20 %), not {self.share:g}")
        if self.reference is not None and self.reference < 1:
            raise UserError(f"--reference-batch-size must be >= 1, not {self.reference}")

    @property
    def shares(self) -> tuple[float, ...]:
        return (DOUBLING, OVERHEAD) if self.share is None else (self.share,)


@dataclass(frozen=True)
class CostMore:
    """The answer for one curve."""

    rises: tuple[CostRise, ...] = ()  # of every share; empty where the curve has no cost in data, or `refused` says why
    critical: tuple[CriticalBatchSize, ...] = ()  # under the curve's label, where a fitted curve describes it
    refused: str = ""  # why the reference cannot be one

    @property
    def is_shown(self) -> bool:
        """Whether the sweep shows where any of them is."""
        identified = any(size.status is not critical_batch.Status.NOT_IDENTIFIED for size in self.critical)
        return identified or any(rise.status is not Status.NOT_SHOWN for rise in self.rises)

    def line(self) -> str:
        """`costs twice the data of TBS 448, the cheapest, from about TBS 13,711 on (...); 1.2 times from ...`."""
        if not self.rises:
            return self.refused
        wheres = [f"{words.factor(rise.factor)}{_over(rise) if not i else ''} {words.costs_from(rise)}"
                  for i, rise in enumerate(self.rises)]  # fmt: skip
        return f"costs {'; '.join(wheres)}"


def cost_more(curve: PublishedCurve, fitted: RuleFit | None, asked: Overhead) -> CostMore:
    """Of a curve of costs to a target in data, with two total batch sizes or more."""
    if not has_data_cost(curve) or len(curve.arms) < 2 or not reached_arms(curve.by_size):
        return CostMore()
    critical = [critical_by_hyperbola(curve.by_size, curve.label)] if fitted and fitted.is_hyperbola else []
    try:
        rises = tuple(cost_rise(curve.by_size, 1 + share, asked.reference) for share in asked.shares)
    except ValueError as error:  # a reference outside the arms that reached
        return CostMore(critical=tuple(critical), refused=str(error))
    if fitted and fitted.shape:
        critical.append(critical_by_overhead(curve.by_size, asked.shares[-1], rises[0].reference, fitted.shape))
    return CostMore(rises, tuple(critical))


def has_data_cost(curve: PublishedCurve) -> bool:
    """Whether costs are data to a target: seconds depend on the machine, and a time budget says nothing of a target."""
    return curve.meaning is Meaning.TO_TARGET and curve.unit != "seconds"


def check_reference(answers: Sequence[CostMore]) -> None:
    """UserError if no curve has arms around the reference that was asked for."""
    refused = [answer.refused for answer in answers if answer.refused]
    if refused and not any(answer.rises for answer in answers):
        raise UserError(f"--reference-batch-size: {refused[0]}")


def rise_table(name: str, rises: Sequence[CostRise]) -> Table:
    """Every bracket, one row a factor."""
    rows = [
        [
            rise.factor,
            _finite(rise.reference),
            _finite(rise.value),
            _finite(rise.low) or None,
            _finite(rise.high),
            rise.method,
            str(rise.status),
        ]
        for rise in rises
    ]
    columns = ["times_the_cost", "of_total_batch_size", "from_total_batch_size", "above", "at_most", "method", "shown"]
    return Table(f"{name}_rise", columns, rows)


def _over(rise: CostRise) -> str:
    if rise.reference != rise.reference:
        return " the data of the cheapest TBS"
    return f" the data of TBS {rise.reference:,.0f}{', the cheapest,' if rise.is_cheapest else ''}"


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None
