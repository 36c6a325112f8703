"""Public scaling tables as rows of one form, for advise_backtest.py.

Any CSV with the columns of the three shipped tables is read: examples per second (`rate_per_s`, `sequences_per_s`) or
tokens per second and GPU at a fixed local batch (`tokens_per_s_per_gpu`), and, where given, the cost to a target and
the seconds end to end.
"""

import csv
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.plan.errors import UserError

RATES = ("rate_per_s", "sequences_per_s", "tokens_per_s_per_gpu")
RCP_NAMES = {"ssd": "retinanet", "gnn": "rgat", "dlrm": "dlrm_dcnv2"}  # benchmarks with another name in MLPerf's logs


@dataclass(frozen=True)
class TableRow:
    """One published run (or median of runs)."""

    series: str  # one benchmark on one GPU model: rows that may be compared
    benchmark: str
    system: str  # submitter
    devices: int
    total_batch_size: float
    micro_batch: float | None  # examples of a device and micro-step; None where the table does not tell
    accumulation: float
    is_split: bool  # a replica spans several devices: `micro_batch` is a share of its own
    step_s: float | None  # of one update; None without a rate
    cost: float | None  # to the target
    examples: float | None  # that `cost` stands for
    seconds: float | None  # end to end

    @property
    def updates(self) -> float | None:
        return None if self.examples is None else self.examples / self.total_batch_size

    @property
    def step_with_evaluation_s(self) -> float | None:
        """Seconds of the whole run over its updates."""
        return None if self.seconds is None or self.updates is None else self.seconds / self.updates


def read_table(path: Path) -> list[TableRow]:
    """UserError for a file that is not such a table."""
    rows = _read(path)
    missing = [name for name in ("gpus",) if name not in rows[0]]
    if missing or not any(name in rows[0] for name in RATES):
        raise UserError(f"{path} has no column {missing[0] if missing else ' or '.join(RATES)}")
    read = []
    for number, row in enumerate(rows, start=2):
        try:
            read.append(_row(row))
        except (ValueError, KeyError, ZeroDivisionError) as error:
            raise UserError(f"{path}, line {number}: {type(error).__name__}: {error}") from error
    return list(dict.fromkeys(read))  # a result that was submitted again is one result


def read_costs(path: Path) -> dict[str, dict[float, float]]:
    """Cost to target by TBS of each benchmark of an RCP table."""
    costs: dict[str, dict[float, float]] = defaultdict(dict)
    for number, row in enumerate(_read(path), start=2):
        try:
            costs[row["benchmark"]][float(row["global_batch_size"])] = float(row["olympic_mean"])
        except (ValueError, KeyError) as error:
            raise UserError(f"{path}, line {number}: {type(error).__name__}: {error}") from error
    return dict(costs)


def cost_between(points: Mapping[float, float], total_batch_size: float) -> float | None:
    """log cost interpolated in log TBS; None beyond the points."""
    sizes = sorted(points)
    if not sizes or not sizes[0] <= total_batch_size <= sizes[-1]:
        return None
    above = next(size for size in sizes if size >= total_batch_size)
    below = max(size for size in sizes if size <= total_batch_size)
    if above == below:
        return points[above]
    share = math.log(total_batch_size / below) / math.log(above / below)
    return math.exp((1 - share) * math.log(points[below]) + share * math.log(points[above]))


def _read(path: Path) -> Sequence[Mapping[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise UserError(f"{path} has no rows")
    return rows


def _row(row: Mapping[str, str]) -> TableRow:
    devices = int(row["gpus"])
    benchmark = row.get("benchmark") or row.get("setting") or "table"
    series = "/".join([benchmark, *([row["gpu"]] if row.get("gpu") else [])])
    per_unit, cost = _number(row.get("examples_per_unit")), _number(row.get("cost"))
    total = _number(row.get("total_batch_size"))
    accumulation, micro = _number(row.get("gradient_accumulation_steps")), _number(row.get("micro_batch"))
    rate = next((found for name in RATES if (found := _number(row.get(name)))), None)
    is_split = micro is None and accumulation is not None
    if total is None:  # a fixed local batch: its size does not matter
        total, micro, accumulation, is_split = float(devices), 1.0, 1.0, False
    if "tokens_per_s_per_gpu" in row and rate is not None:
        rate *= devices * (micro or 1.0)
    if row.get("rate_unit") == "tokens" and rate is not None and per_unit is not None:
        rate *= per_unit
    if is_split and accumulation is not None:
        micro = total / (devices * accumulation)
    if micro is not None and accumulation is None:
        accumulation = total / (devices * micro)
    return TableRow(
        series=series,
        benchmark=benchmark,
        system=row.get("submitter") or "",
        devices=devices,
        total_batch_size=total,
        micro_batch=micro,
        accumulation=accumulation or 1.0,
        is_split=is_split,
        step_s=None if rate is None else total / rate,
        cost=cost,
        examples=None if cost is None or per_unit is None else cost * per_unit,
        seconds=_number(row.get("seconds")),
    )


def _number(text: str | None) -> float | None:
    return float(text) if text else None
