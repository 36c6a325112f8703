"""Seconds per update of a study's arms: which rows of timing.jsonl count, and which must not make a headline."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from harness.analyse.results import TrialResult
from harness.plan.timing import conditions_of, hardware, is_timing_of
from harness.plan.trial import Arm
from harness.statistics.step_time import is_slower, relative_sds

Row = Mapping[str, Any]
Measured = tuple[Arm, Sequence[TrialResult]]


class Excluded(StrEnum):
    """Why an arm's seconds per update are excluded from headline numbers."""

    SLOWER_THAN_PACKED = "slower than packed"
    OTHER_CONDITIONS = "other conditions"


@dataclass(frozen=True)
class StepTiming:
    """What the timing pass measured of an arm's updates, alone on the machine."""

    seconds: float  # per update, median over rounds
    relative_sd: float | None  # standard deviation of the log of that median; None where rounds are not known
    steps: int | None  # updates timed
    fastest_s: float  # of the rounds
    slowest_s: float
    packed_s: float | None  # seconds per update on the trials' own clocks, median; they may have shared the machine
    excluded: Excluded | None
    conditions: str  # device, driver, versions and options, as far as the row names them
    device: str
    loader_fraction: float
    other_cpus: float  # that other processes kept busy meanwhile
    cpus: int | None  # that the gang could use on its node
    interleaved: bool  # whether rounds alternated with those of other total batch sizes


def step_timings(rows: Sequence[Row], measured: Sequence[Measured]) -> list[StepTiming | None]:
    """The timing of each arm, given with its trials; None for one that was not timed.

    Seconds measured under different conditions are never compared (P34): those count under which most arms were timed,
    the newest of several; an arm that was timed under others alone is excluded.
    """
    found = [_by_conditions(rows, arm, results) for arm, results in measured]
    chosen = _most_common(rows, found)
    picked = [_pick(by_conditions, chosen) for by_conditions in found]
    used = {id(row): row for row in picked if row is not None}
    alike = [row for row in used.values() if conditions_of(row) == chosen]
    others = [row for row in used.values() if conditions_of(row) != chosen]
    spreads: dict[int, float | None] = {}
    for group in (alike, others):
        sds = relative_sds([row.get("rounds_s", ()) for row in group])
        spreads |= {id(row): sd for row, sd in zip(group, sds, strict=True)}
    packed = {key: _packed(picked, measured, key) for key in used}
    return [
        None if row is None else _timing(row, spreads[id(row)], packed[id(row)], conditions_of(row) == chosen)
        for row in picked
    ]


def _by_conditions(rows: Sequence[Row], arm: Arm, results: Sequence[TrialResult]) -> dict[str, Row]:
    """The newest row of an arm under each conditions, on the topology that its trials ran on."""
    if not results:
        return {}
    topology = results[0].topology
    return {conditions_of(row): row for row in rows if is_timing_of(row, arm, topology)}


def _most_common(rows: Sequence[Row], found: Iterable[Mapping[str, Row]]) -> str:
    """The conditions under which most arms were timed, the newest of several."""
    arms: dict[str, int] = defaultdict(int)
    for by_conditions in found:
        for conditions in by_conditions:
            arms[conditions] += 1
    newest = {conditions_of(row): number for number, row in enumerate(rows)}
    return max(arms, key=lambda conditions: (arms[conditions], newest[conditions]), default="")


def _pick(by_conditions: Mapping[str, Row], chosen: str) -> Row | None:
    """An arm's row under the chosen conditions, or else one under others."""
    return by_conditions.get(chosen) or next(iter(by_conditions.values()), None)


def _packed(picked: Sequence[Row | None], measured: Sequence[Measured], key: int) -> list[float]:
    """Seconds per update on the own clock of every trial that a row is about, each trial once; not of trials that ran
    on other hardware."""
    trials = {
        result.trial.trial_id: result
        for row, (_, results) in zip(picked, measured, strict=True)
        if row is not None and id(row) == key
        for result in results
        if not (row.get("device") and result.hardware)
        or result.hardware == (hardware(row["device"], row.get("driver", "")),)
    }
    return [seconds for result in trials.values() if (seconds := result.packed_step_seconds())]


def _timing(row: Row, relative_sd: float | None, packed: Sequence[float], is_chosen: bool) -> StepTiming:
    excluded = None
    if not is_chosen:
        excluded = Excluded.OTHER_CONDITIONS
    elif is_slower(row["median_s"], relative_sd, packed):
        excluded = Excluded.SLOWER_THAN_PACKED
    return StepTiming(
        seconds=row["median_s"],
        relative_sd=relative_sd,
        steps=row.get("steps"),
        fastest_s=row.get("fastest_s", row["median_s"]),
        slowest_s=row.get("slowest_s", row["median_s"]),
        packed_s=statistics.median(packed) if packed else None,
        excluded=excluded,
        conditions=conditions_of(row),
        device=row.get("device", ""),
        loader_fraction=row.get("loader_fraction", 0.0),
        other_cpus=row.get("other_cpus", 0.0),
        cpus=row.get("cpus"),
        interleaved=row.get("interleaved", True),
    )
