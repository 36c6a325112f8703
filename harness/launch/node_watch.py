"""Watches nodes join and leave during a sweep, and notices when the trials no longer fit on those that are left."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from harness.launch.capacity import workers_that_fit
from harness.launch.ray_probe import Node, live_nodes
from harness.launch.tasks import Cluster
from harness.plan.trial import PlannedTrial

LOOK_EVERY_S = 2.0


@dataclass
class NodeWatch:
    """Called at every turn of the driver's loop; looks at the cluster every LOOK_EVERY_S."""

    cluster: Cluster
    say: Callable[[str], None]
    look: Callable[[], Sequence[Node]] = live_nodes
    _nodes: dict[str, Node] = field(default_factory=dict)
    _looked: float = 0.0
    _fitted: float = 0.0  # when the trials last fitted

    def lacks_capacity(self, waiting: Callable[[], Sequence[PlannedTrial]]) -> bool:
        """Whether no waiting trial has fitted on the nodes for `cluster.node_wait_s`."""
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY_S:
            return False
        self._looked = now
        nodes = {node.id: node for node in self.look()}
        self._report_changes(nodes)
        self._nodes = nodes
        capacity = workers_that_fit(self.cluster, [node.resources for node in nodes.values()])
        smallest = min((planned.topology.batch.world_size for planned in waiting()), default=0)
        if smallest <= capacity:
            self._fitted = now
            return False
        if now - self._fitted < self.cluster.node_wait_s:
            return False
        self.say(
            f"a trial needs {smallest} workers, but for {self.cluster.node_wait_s:g} s the {len(nodes)} remaining "
            f"node(s) have had room for at most {capacity}: nothing can run until nodes come back"
        )
        return True

    def _report_changes(self, nodes: dict[str, Node]) -> None:
        if not self._nodes:
            return
        for lost in self._nodes.keys() - nodes.keys():
            self.say(f"{self._nodes[lost].name} was lost: its trials resume elsewhere from their last checkpoints")
        for new in nodes.keys() - self._nodes.keys():
            cpus, gpus, model = nodes[new].resources
            unused = f", which trials do not use (cluster.gpu_model={self.cluster.gpu_model})"
            is_other = bool(gpus and self.cluster.gpu_model and model != self.cluster.gpu_model)
            self.say(f"{nodes[new].name} has joined: {cpus:g} CPUs, {gpus:g} GPUs{unused if is_other else ''}")
