"""The timing pass: each distinct (TBS, topology) alone on its nodes, after the trials."""

import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.launch.measures import Gangs, Row
from harness.launch.tasks import task_of
from harness.plan.trial import PlannedTrial, timing_key
from harness.record.provenance import cpu_model


def untimed(planned: Iterable[PlannedTrial], done: set[str]) -> list[PlannedTrial]:
    """One planned trial for every key without a timing yet, small batches first."""
    distinct = {timing_key(p.trial.arm, p.topology): p for p in planned}
    todo = [p for key, p in distinct.items() if key not in done]
    return sorted(todo, key=lambda p: (p.topology.batch.world_size, p.topology.batch.total_batch_size))


@dataclass(frozen=True)
class TimingPass:
    """Times every planned trial's updates, one at a time, on a gang of its world size."""

    todo: Sequence[PlannedTrial]
    say: Callable[[str], None]
    is_stopped: Callable[[], bool]

    def measure(self, gangs: Gangs, study: Path) -> Iterator[Row]:
        """A row of timing.jsonl for each; a failure is reported by `say` and affects its own row only."""
        cluster = gangs.cluster
        for number, planned in enumerate(self.todo, 1):
            if self.is_stopped():
                return
            batch = planned.topology.batch
            self.say(f"timing pass {number}/{len(self.todo)}: TBS {batch.total_batch_size}, alone on the machine")
            task = task_of(planned, study, cluster.execution)
            try:
                timed = gangs.of(batch.world_size).time_steps(task, cluster.timing_min_steps, cluster.timing_min_s)
            except RuntimeError as error:  # GangError too
                self.say(f"timing of TBS {batch.total_batch_size} failed: {error}")
                gangs.drop(batch.world_size)
                continue
            yield {
                "key": timing_key(planned.trial.arm, planned.topology),
                "total_batch_size": batch.total_batch_size,
                "policy": "exclusive",
                "topology": planned.topology.key,
                **asdict(timed),
                "device": cpu_model(),
                "host": socket.gethostname(),
            }
