"""Which trial to run next: the plan minus the records, long trials first; asks the experiment again when it is done."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from harness.plan.trial import PlannedTrial

Next = Callable[[], Sequence[PlannedTrial]]  # every trial planned so far, given the records on disk
IsFinished = Callable[[PlannedTrial], bool]


@dataclass
class Feed:
    """Hands out every unfinished trial once; a finished round may plan more (sequential experiments)."""

    plan: Next
    is_finished: IsFinished
    waiting: list[PlannedTrial] = field(default_factory=list)
    running: dict[str, PlannedTrial] = field(default_factory=dict)
    given: set[str] = field(default_factory=set)
    total: int = 0
    finished_before: int = 0

    def __post_init__(self) -> None:
        self._replan()
        self.finished_before = self.total - len(self.waiting)

    def take(self) -> PlannedTrial | None:
        """The next trial to start, or None while nothing can start now."""
        if not self.waiting:
            return None
        planned = self.waiting.pop(0)
        self.running[planned.key] = planned
        return planned

    def end(self, key: str) -> None:
        """A trial has ended, with a result or for good without one."""
        self.running.pop(key, None)
        if not self.waiting and not self.running:
            self._replan()

    def put_back(self, key: str) -> None:
        """A trial was stopped on demand: it waits to go on."""
        self.waiting.insert(0, self.running.pop(key))

    @property
    def is_over(self) -> bool:
        return not self.waiting and not self.running

    def _replan(self) -> None:
        distinct = {planned.key: planned for planned in self.plan()}
        self.total = len(distinct)
        fresh = [p for key, p in distinct.items() if key not in self.given and not self.is_finished(p)]
        self.given |= {planned.key for planned in fresh}
        # Longest first, so that no long trial is left alone at the end. Small batches make more updates a budget.
        self.waiting = sorted(fresh, key=lambda p: -expected_updates(p))


def expected_updates(planned: PlannedTrial) -> int:
    """A stand-in for a trial's length before any has run: micro-batches its budget would take."""
    batch = planned.topology.batch
    return planned.trial.arm.settings.budget_steps * batch.gradient_accumulation_steps
