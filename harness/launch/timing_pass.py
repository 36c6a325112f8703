"""The timing pass: each distinct (TBS, topology) alone on its nodes, after the trials."""

import socket
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.launch.gang import GangError, GangFactory
from harness.launch.tasks import Cluster, task_of
from harness.plan.trial import PlannedTrial, timing_key
from harness.record.provenance import cpu_model


def untimed(planned: Iterable[PlannedTrial], done: set[str]) -> list[PlannedTrial]:
    """One planned trial for every key without a timing yet, small batches first."""
    distinct = {timing_key(p.trial.arm, p.topology): p for p in planned}
    todo = [p for key, p in distinct.items() if key not in done]
    return sorted(todo, key=lambda p: (p.topology.batch.world_size, p.topology.batch.total_batch_size))


def run_timing_pass(
    todo: list[PlannedTrial],
    study: Path,
    cluster: Cluster,
    gang_of: GangFactory,
    write: Callable[[dict[str, Any]], None],
    say: Callable[[str], None],
    is_stopped: Callable[[], bool],
) -> None:
    """Time every entry, one at a time, on a gang of its world size; a failure is told and costs its entry only."""
    limits = (cluster.timing_min_steps, cluster.timing_min_s)
    for number, planned in enumerate(todo, 1):
        if is_stopped():
            return
        batch = planned.topology.batch
        say(f"timing pass {number}/{len(todo)}: TBS {batch.total_batch_size}, alone on the machine")
        try:
            timed = gang_of(batch.world_size).time_steps(task_of(planned, study, cluster.execution), *limits)
        except (GangError, RuntimeError) as error:
            say(f"timing of TBS {batch.total_batch_size} failed: {error}")
            continue
        write(
            {
                "key": timing_key(planned.trial.arm, planned.topology),
                "total_batch_size": batch.total_batch_size,
                "policy": "exclusive",
                "topology": planned.topology.key,
                **asdict(timed),
                "device": cpu_model(),
                "host": socket.gethostname(),
            }
        )
