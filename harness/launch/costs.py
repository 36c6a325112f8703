"""How long trials are expected to take, from those that have ended: the basis of the longest-first order."""

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from harness.plan.settings import fingerprint
from harness.plan.trial import PlannedTrial

ReadRecord = Callable[[PlannedTrial], Mapping[str, Any]]  # record.json of an ended trial


class Costs:
    """Expected seconds: passes of the budget x the part of it that the arm needed x seconds per pass on the topology.

    What has not been measured yet is the median of the others; before the first trial ends, every trial is assumed to
    need its whole budget at one second per pass, which gives the same order.
    """

    def __init__(self, read: ReadRecord) -> None:
        self.read = read
        self._part: dict[str, float] = {}  # of the budget, by arm
        self._pass_s: dict[str, float] = {}  # by topology
        self._usual_part = self._usual_pass_s = 1.0
        self._arms: dict[str, str] = {}  # by trial

    def learn(self, planned: PlannedTrial) -> bool:
        """Learn from an ended trial; returns whether there was anything new: the first of its arm."""
        arm = self._arm(planned)
        if arm in self._part or not (record := self.read(planned)).get("steps"):
            return False  # a failed trial says nothing about its length
        passes = record["steps"] * planned.topology.batch.gradient_accumulation_steps
        self._part[arm] = passes / budget_passes(planned)
        self._pass_s.setdefault(planned.topology.key, record["clock"]["total_s"] / passes)
        self._usual_part, self._usual_pass_s = median(self._part.values()), median(self._pass_s.values())
        return True

    def expected_s(self, planned: PlannedTrial) -> float:
        part = self._part.get(self._arm(planned), self._usual_part)
        return budget_passes(planned) * part * self._pass_s.get(planned.topology.key, self._usual_pass_s)

    def order(self, planned: PlannedTrial) -> tuple[int, float]:
        """Sort key: trials with many workers first, as short trials with few would keep fragmenting the space they
        need; then the longest, so that none is left running alone at the end."""
        return -planned.topology.batch.world_size, -self.expected_s(planned)

    def _arm(self, planned: PlannedTrial) -> str:
        trial = planned.trial
        if trial.trial_id not in self._arms:
            self._arms[trial.trial_id] = fingerprint(trial.arm.settings.identity)
        return self._arms[trial.trial_id]


def budget_passes(planned: PlannedTrial) -> int:
    """Micro-batches that each worker of a trial computes in its budget."""
    return planned.trial.arm.settings.budget_steps * planned.topology.batch.gradient_accumulation_steps
