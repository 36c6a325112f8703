"""Which trial to run next: the plan minus the records, long trials first; replans as trials end."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from harness.launch.costs import Costs
from harness.plan.trial import PlannedTrial

Next = Callable[[], Sequence[PlannedTrial]]  # every trial planned so far, given the records on disk
IsFinished = Callable[[PlannedTrial], bool]
Limits = Callable[[], Mapping[str, float]]  # by trial_id, see analyse.experiment.Racing; absent: it does not race
Claim = Callable[[PlannedTrial], bool]  # whether a trial is this driver's to run
Tell = Callable[[PlannedTrial, float], None]  # sets the limit of a racing trial, which may already be running

LOOK_EVERY_S = 2.0


@dataclass
class Feed:
    """Gives each unfinished trial once; when a slot is free and no trial is waiting, it asks for a longer plan."""

    plan: Next
    is_finished: IsFinished
    limits: Limits = dict
    tell: Tell = lambda planned, examples: None
    claim: Claim | None = None  # where several drivers share the study
    waits_for_others: bool = False  # for the trials of other drivers to end: the driver that reports does
    ended_elsewhere: Callable[[PlannedTrial], None] = lambda planned: None  # called for what another driver finished
    costs: Costs = field(default_factory=lambda: Costs(lambda planned: {}))
    waiting: list[PlannedTrial] = field(default_factory=list)
    running: dict[str, PlannedTrial] = field(default_factory=dict)
    given_up: set[str] = field(default_factory=set)  # ended permanently without a result
    total: int = 0
    finished_before: int = 0
    _ended: set[str] = field(default_factory=set)  # with a result, here or elsewhere
    _limits: Mapping[str, float] = field(default_factory=dict)
    _look_again: float = 0.0  # when to look again for trials that other drivers finished or left

    def __post_init__(self) -> None:
        self._replan()
        self.finished_before = self.total - len(self.waiting)

    def take(self) -> PlannedTrial | None:
        """The next trial to start, or None while nothing can start now."""
        if not self.waiting or not (self.claim is None or self._claim_first(self.claim)):
            return None
        planned = self.waiting.pop(0)
        self.running[planned.key] = planned
        if self.races(planned):
            self.tell(planned, self._limit(planned))
        return planned

    def end(self, key: str) -> None:
        """A trial has ended, with a result or permanently without one."""
        planned = self.running.pop(key)
        if not self.is_finished(planned):  # under the limits it ran with; later limits may require it to continue
            self.given_up.add(key)
        else:
            self._ended.add(key)
            if self.costs.learn(planned):
                self.waiting.sort(key=self.costs.order)
        self._renew_limits()
        if not self.waiting:
            self._replan()

    def put_back(self, key: str) -> None:
        """A trial was stopped on request: it waits to be resumed, unless it can no longer win its race."""
        planned = self.running.pop(key)
        if self._may_start(planned):
            self.waiting.insert(0, planned)
        elif not self.waiting:
            self._replan()

    def races(self, planned: PlannedTrial) -> bool:
        """Whether a trial may be stopped because it can no longer win."""
        return planned.trial.trial_id in self._limits

    @property
    def is_over(self) -> bool:
        return not self.waiting and not self.running

    @property
    def is_done(self) -> bool:
        """After `take` has returned None: whether it will return None from now on."""
        return not self.running and (not self.waiting or (self.claim is not None and not self.waits_for_others))

    def _claim_first(self, claim: Claim) -> bool:
        """Move a trial that no other driver runs to the front; returns whether there is one."""
        if time.monotonic() < self._look_again:
            return False
        for planned in [*self.waiting]:
            is_ours = claim(planned)
            if self.is_finished(planned):  # checked after claiming, so that it cannot end in between
                self.waiting.remove(planned)
                self._report_elsewhere(planned)
            elif is_ours:
                self.waiting.remove(planned)
                self.waiting.insert(0, planned)
                return True
        self._look_again = time.monotonic() + LOOK_EVERY_S
        if not self.waiting:
            self._replan()
        return False

    def _report_elsewhere(self, finished: PlannedTrial) -> None:
        if finished.key not in self._ended:
            self._ended.add(finished.key)
            self.ended_elsewhere(finished)

    def _limit(self, planned: PlannedTrial) -> float:
        return self._limits.get(planned.trial.trial_id, math.inf)

    def _may_start(self, planned: PlannedTrial) -> bool:
        return self._limit(planned) > 0

    def _renew_limits(self) -> None:
        """After a result: running trials get their new limits, and waiting ones that can no longer win are dropped."""
        before, self._limits = self._limits, self.limits()
        for planned in self.running.values():
            if self.races(planned) and self._limit(planned) != before.get(planned.trial.trial_id):
                self.tell(planned, self._limit(planned))
        dropped = [planned for planned in self.waiting if not self._may_start(planned)]
        self.waiting = [planned for planned in self.waiting if self._may_start(planned)]
        self.total -= len(dropped)

    def _replan(self) -> None:
        distinct = {planned.key: planned for planned in self.plan()}
        # Newly planned trials may race too, and others may no longer race.
        self._limits = self.limits()
        taken = {*self.running, *self.given_up}
        finished = {key for key, planned in distinct.items() if key not in taken and self.is_finished(planned)}
        fresh = [p for key, p in distinct.items() if key not in {*taken, *finished} and self._may_start(p)]
        self.total = len(taken & distinct.keys()) + len(finished) + len(fresh)
        for key in finished:
            self.costs.learn(distinct[key])
            self._report_elsewhere(distinct[key])
        self.waiting = sorted(fresh, key=self.costs.order)
