"""Which trial to run next: the plan minus the records, long trials first; replans as trials end."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from harness.launch.costs import Costs
from harness.plan.trial import PlannedTrial

LOOK_EVERY_S = 2.0


class TrialSource(Protocol):
    """The trials of a study: which are planned, which have a result, and which this driver may run."""

    @property
    def is_shared(self) -> bool:
        """Whether several drivers may run these trials, so that each must be claimed first."""
        ...

    @property
    def waits_for_others(self) -> bool:
        """Whether this driver waits for the trials of other drivers to end: the one that reports does."""
        ...

    def plan(self) -> Sequence[PlannedTrial]:
        """Every trial planned so far, given the records on disk."""
        ...

    def is_finished(self, planned: PlannedTrial) -> bool: ...

    def limits(self) -> Mapping[str, float]:
        """By trial_id, see analyse.experiment.Racing; a trial without a limit does not race."""
        ...

    def set_limit(self, planned: PlannedTrial, examples: float) -> None:
        """Set the limit of a racing trial, which may already be running."""
        ...

    def claim(self, planned: PlannedTrial) -> bool:
        """Whether a trial of a shared study is this driver's to run."""
        ...

    def ended_elsewhere(self, planned: PlannedTrial) -> None:
        """Called once for each trial that another driver finished while this one ran."""
        ...

    def record(self, planned: PlannedTrial) -> Mapping[str, Any]:
        """record.json of an ended trial; empty if there is none."""
        ...


@dataclass
class Feed:
    """Gives each unfinished trial once; when a slot is free and no trial is waiting, it asks for a longer plan."""

    source: TrialSource
    costs: Costs = field(init=False)
    waiting: list[PlannedTrial] = field(default_factory=list)
    running: dict[str, PlannedTrial] = field(default_factory=dict)
    given_up: set[str] = field(default_factory=set)  # ended permanently without a result
    total: int = 0
    finished_before: int = 0
    _ended: set[str] = field(default_factory=set)  # with a result, here or elsewhere
    _limits: Mapping[str, float] = field(default_factory=dict)
    _look_again: float = 0.0  # when to look again for trials that other drivers finished or left

    def __post_init__(self) -> None:
        self.costs = Costs(self.source.record)
        self._ended |= {planned.key for planned in self._replan()}
        self.finished_before = self.total - len(self.waiting)

    def take(self) -> PlannedTrial | None:
        """The next trial to start, or None while nothing can start now."""
        if not self.waiting or (self.source.is_shared and not self._claim_first()):
            return None
        planned = self.waiting.pop(0)
        self.running[planned.key] = planned
        if self.races(planned):
            self.source.set_limit(planned, self._limit(planned))
        return planned

    def end(self, key: str) -> None:
        """A trial has ended, with a result or permanently without one."""
        planned = self.running.pop(key)
        if not self.source.is_finished(
            planned
        ):  # under the limits it ran with; later limits may require it to continue
            self.given_up.add(key)
        else:
            self._ended.add(key)
            if self.costs.learn(planned):
                self.waiting.sort(key=self.costs.order)
        self._renew_limits()
        if not self.waiting:
            self._extend()

    def put_back(self, key: str) -> None:
        """A trial was stopped on request: it waits to be resumed, unless it can no longer win its race."""
        planned = self.running.pop(key)
        if self._may_start(planned):
            self.waiting.insert(0, planned)
        elif not self.waiting:
            self._extend()

    def races(self, planned: PlannedTrial) -> bool:
        """Whether a trial may be stopped because it can no longer win."""
        return planned.trial.trial_id in self._limits

    @property
    def is_over(self) -> bool:
        return not self.waiting and not self.running

    @property
    def is_done(self) -> bool:
        """After `take` has returned None: whether it will return None from now on."""
        return not self.running and (not self.waiting or (self.source.is_shared and not self.source.waits_for_others))

    def _claim_first(self) -> bool:
        """Move a trial that no other driver runs to the front; returns whether there is one."""
        if time.monotonic() < self._look_again:
            return False
        for planned in [*self.waiting]:
            is_ours = self.source.claim(planned)
            if self.source.is_finished(planned):  # checked after claiming, so that it cannot end in between
                self.waiting.remove(planned)
                self._report_elsewhere(planned)
            elif is_ours:
                self.waiting.remove(planned)
                self.waiting.insert(0, planned)
                return True
        self._look_again = time.monotonic() + LOOK_EVERY_S
        if not self.waiting:
            self._extend()
        return False

    def _report_elsewhere(self, finished: PlannedTrial) -> None:
        if finished.key not in self._ended:
            self._ended.add(finished.key)
            self.source.ended_elsewhere(finished)

    def _limit(self, planned: PlannedTrial) -> float:
        return self._limits.get(planned.trial.trial_id, math.inf)

    def _may_start(self, planned: PlannedTrial) -> bool:
        return self._limit(planned) > 0

    def _renew_limits(self) -> None:
        """After a result: running trials get their new limits, and waiting ones that can no longer win are dropped."""
        before, self._limits = self._limits, self.source.limits()
        for planned in self.running.values():
            if self.races(planned) and self._limit(planned) != before.get(planned.trial.trial_id):
                self.source.set_limit(planned, self._limit(planned))
        dropped = [planned for planned in self.waiting if not self._may_start(planned)]
        self.waiting = [planned for planned in self.waiting if self._may_start(planned)]
        self.total -= len(dropped)

    def _extend(self) -> None:
        """Ask for a longer plan, and report what of it other drivers have finished."""
        for planned in self._replan():
            self._report_elsewhere(planned)

    def _replan(self) -> list[PlannedTrial]:
        """Read the plan again; returns those of its trials that are finished."""
        distinct = {planned.key: planned for planned in self.source.plan()}
        # Newly planned trials may race too, and others may no longer race.
        self._limits = self.source.limits()
        taken = {*self.running, *self.given_up}
        finished = {key for key, planned in distinct.items() if key not in taken and self.source.is_finished(planned)}
        fresh = [p for key, p in distinct.items() if key not in {*taken, *finished} and self._may_start(p)]
        self.total = len(taken & distinct.keys()) + len(finished) + len(fresh)
        for key in finished:
            self.costs.learn(distinct[key])
        self.waiting = sorted(fresh, key=self.costs.order)
        return [distinct[key] for key in finished]
