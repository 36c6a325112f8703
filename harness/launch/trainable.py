"""The Tune trainable: one trial after another on a warm gang, kept through `reuse_actors` (P20)."""

import json
import traceback
from pathlib import Path
from typing import Any

from ray import tune
from ray.util import get_current_placement_group

from harness.launch.environment import fetch
from harness.launch.gang import Gang, InProcessGang, send_output_to
from harness.launch.preflight import see_study
from harness.launch.ray_gang import RayGang
from harness.train.trainer import Execution
from harness.train.worker import Task

MEMORY_GROWTH = 1.10  # a gang whose memory has grown by more than this is retired (P20)
SETTLING_TRIALS = 3  # allocator and caches fill during these; growth is measured from their end


class TrialTrainable(tune.Trainable):
    """Runs `config["task"]`, a JSON text, so that Tune neither interprets it nor samples from it."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """One bundle per worker; a W = 1 trial trains in this process, which only coordinates the workers of others."""
        order = json.loads(config["task"])
        bundle, workers = order["bundle"], order["topology"]["batch"]["world_size"]
        return tune.PlacementGroupFactory([bundle] if workers == 1 else [{}, *[bundle] * workers], strategy="PACK")

    def setup(self, config: dict[str, Any]) -> None:
        order = json.loads(config["task"])
        self.workers: int = order["topology"]["batch"]["world_size"]
        self.gang: Gang | None = None
        self.trials_run = 0
        self.settled_bytes = 0
        # Not begun here: while this actor started, Tune may have run its trial on another that became free. Beginning
        # the trial claims its folder, which would invalidate the record it has by then.
        self._next: dict[str, Any] | None = order

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial; Tune offers only those with the same resources, hence the same world size."""
        self._next = json.loads(new_config["task"])
        return True

    def step(self) -> dict[str, Any]:
        if self._next is not None:
            order, self._next = self._next, None
            self._begin(order)
        if self.skipped:
            return {"rows": json.dumps([{"kind": "drain"}]), "done": True}
        assert self.gang is not None
        try:
            rows = self.gang.advance(self.report_every_s)
        except BaseException:
            if self.workers == 1:
                traceback.print_exc()  # to the trial's log; a RayGang's workers have already written theirs
            raise
        over = not rows or rows[-1]["kind"] in ("end", "drain")
        return {"rows": json.dumps(rows), "done": over}

    def cleanup(self) -> None:
        if self.gang is not None:
            self.gang.close()

    # Checkpoints are the trainer's own, in the trial's folder, where a retried trial finds them.
    def save_checkpoint(self, checkpoint_dir: str) -> None:
        return None

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        return None

    def _make_gang(self, order: dict[str, Any]) -> Gang:
        environment = fetch(order["environment"])
        if self.workers == 1:
            share = order["gpus"] if 0 < order["gpus"] < 1 else 1.0
            return InProcessGang(order["device"], order["cpus"], share)
        group = get_current_placement_group()
        assert group is not None
        # Tune drops the empty head of the factory, so worker i is on bundle i.
        return RayGang(group, self.workers, order["device"], order["cpus"], order["gpus"], environment=environment)

    def _begin(self, order: dict[str, Any]) -> None:
        self.report_every_s: float = order["report_every_s"]
        task = Task.from_json(order, order["folder"], Execution(**order["execution"]))
        # Tune had queued it before the drain, or before its race was lost: do not start it.
        self.skipped = task.execution.is_draining() or task.execution.limit_examples() == 0
        if self.skipped:
            return
        self._retire_if_grown()
        if self.gang is None:
            self.gang, self.trials_run = self._make_gang(order), 0
        if self.workers == 1:
            see_study(task.execution)
            send_output_to(Path(task.folder) / "log.txt")
        self.gang.start(task)
        self.trials_run += 1

    def _retire_if_grown(self) -> None:
        if self.gang is None or self.trials_run < SETTLING_TRIALS:
            return
        now = self.gang.resident_bytes()
        if self.trials_run == SETTLING_TRIALS:
            self.settled_bytes = now
        elif now > self.settled_bytes * MEMORY_GROWTH and self.workers > 1:
            self.gang.close()
            self.gang = None
