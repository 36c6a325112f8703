"""The timing pass: each distinct (TBS, topology) alone on its nodes, after the trials.

In three rounds that alternate with those of the other topologies of the gang, so that a machine that becomes slower or
faster meanwhile favours none of them. Where torch.compile is on, every change of topology would compile again: there
the three rounds of each follow one another.
"""

import os
import statistics
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path

from harness.launch.measures import Gangs, Row
from harness.launch.tasks import task_of
from harness.plan.execution import Speed
from harness.plan.timing import ROUNDS, Conditions, RoundLimits, timing_key, work_key
from harness.plan.trial import PlannedTrial
from harness.train.timing import Round
from harness.train.trainer import Execution


@dataclass(frozen=True)
class TimingPass:
    """Times every planned trial's updates, one at a time, on a gang of its world size; see plan.timing.untimed."""

    todo: Sequence[PlannedTrial]
    done: Collection[str]  # keys of rows that the study has: what this gang's machine has timed is not timed again
    say: Callable[[str], None]
    is_stopped: Callable[[], bool]

    def measure(self, gangs: Gangs, study: Path) -> Iterator[Row]:
        """A row of timing.jsonl for each; a failure is reported by `say` and affects its own row only."""
        for world_size, group in groupby(self.todo, key=lambda planned: planned.topology.batch.world_size):
            yield from _GangTiming(self, gangs, study, world_size).rows([*group])


@dataclass(frozen=True)
class _GangTiming:
    """The part of the pass that one gang runs."""

    whole: TimingPass
    gangs: Gangs
    study: Path
    world_size: int

    def rows(self, group: Sequence[PlannedTrial]) -> Iterator[Row]:
        execution, threads = self.gangs.cluster.execution, self.gangs.cluster.cpus_per_worker
        try:
            conditions = Conditions(speed_of(execution), threads, self.gangs.of(self.world_size).machine())
        except RuntimeError as error:  # GangError too
            self._failed(f"timing on {self.world_size} workers failed: {error}")
            return
        keys = [timing_key(planned.trial.arm, planned.topology, conditions) for planned in group]
        left = {key: planned for key, planned in zip(keys, group, strict=True) if key not in self.whole.done}
        if execution.compile and len(left) > 1:
            self.whole.say("timing pass: one TBS after another, as compile=true would compile again for every round")
        orders = [{key: left[key]} for key in left] if execution.compile else [left]
        for order in orders:
            yield from self._alternate(order, conditions, at_once=ROUNDS if execution.compile else 1)

    def _alternate(self, order: dict[str, PlannedTrial], conditions: Conditions, at_once: int) -> Iterator[Row]:
        """Every topology's rounds, `at_once` of them before the next topology's turn."""
        measured: dict[str, list[Round]] = {key: [] for key in order}
        loads: dict[str, float] = {}
        for turn in range(ROUNDS // at_once):
            self._announce([order[key] for key in measured], turn if at_once < ROUNDS else None)
            for key in [*measured]:
                if self.whole.is_stopped():
                    return
                loads.setdefault(key, os.getloadavg()[0])
                rounds = self._time(order[key], at_once)
                if rounds is None:
                    del measured[key]
                    continue
                measured[key] += rounds
                if len(measured[key]) == ROUNDS:
                    yield _row(key, order[key], measured[key], conditions, loads[key], at_once < ROUNDS)

    def _time(self, planned: PlannedTrial, rounds: int) -> list[Round] | None:
        cluster = self.gangs.cluster
        limits = RoundLimits.of_pass(cluster.timing_min_steps, cluster.timing_min_s, cluster.timing_max_s)
        task = task_of(planned, self.study, cluster.execution)
        try:
            return self.gangs.of(self.world_size).time_rounds(task, limits, rounds)
        except RuntimeError as error:  # GangError too
            self._failed(f"timing of TBS {planned.topology.batch.total_batch_size} failed: {error}")
            return None

    def _failed(self, reason: str) -> None:
        self.whole.say(reason)
        self.gangs.drop(self.world_size)

    def _announce(self, planned: Sequence[PlannedTrial], turn: int | None) -> None:
        if planned:
            sizes = ", ".join(str(p.topology.batch.total_batch_size) for p in planned)
            part = "" if turn is None else f", round {turn + 1} of {ROUNDS}"
            self.whole.say(f"timing pass{part}: TBS {sizes}, alone on the machine")


def speed_of(execution: Execution) -> Speed:
    """The options among them that change how long an update takes."""
    return Speed(**{option.name: getattr(execution, option.name) for option in fields(Speed)})


def _row(
    key: str,
    planned: PlannedTrial,
    rounds: Sequence[Round],
    conditions: Conditions,
    load_average: float,
    interleaved: bool,
) -> Row:
    """A row of timing.jsonl: the median over rounds of the seconds per update, with each round's."""
    steps_s = [measured.step_s for measured in rounds]
    seconds = sum(measured.seconds for measured in rounds)
    return {
        "key": key,
        "work": work_key(planned.trial.arm, planned.topology),
        "total_batch_size": planned.topology.batch.total_batch_size,
        "policy": "exclusive",
        "topology": planned.topology.key,
        "median_s": statistics.median(steps_s),
        "fastest_s": min(steps_s),
        "slowest_s": max(steps_s),
        "rounds_s": steps_s,
        "steps": sum(measured.steps for measured in rounds),
        "interleaved": interleaved,
        "loader_fraction": sum(measured.loader_fraction * measured.seconds for measured in rounds) / seconds,
        "other_cpus": sum(measured.other_cpus * measured.seconds for measured in rounds) / seconds,
        "load_average": load_average,  # of the last minute, hence of the trials too
        **conditions.to_json(),
    }
