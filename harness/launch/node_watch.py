"""Nodes that come and go during a sweep, and a sweep that no longer fits the ones that are left."""

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
    """Asked by the driver's loop as often as it turns; looks at the cluster every LOOK_EVERY_S."""

    cluster: Cluster
    say: Callable[[str], None]
    look: Callable[[], Sequence[Node]] = live_nodes
    _nodes: dict[str, Node] = field(default_factory=dict)
    _looked: float = 0.0
    _fitted: float = 0.0  # when the trials last fitted

    def has_no_room(self, waiting: Callable[[], Sequence[PlannedTrial]]) -> bool:
        """Whether none of the trials that wait for a place has fitted the nodes for `cluster.node_wait_s`."""
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY_S:
            return False
        self._looked = now
        nodes = {node.id: node for node in self.look()}
        self._tell(nodes)
        self._nodes = nodes
        room = workers_that_fit(self.cluster, [(node.cpus, node.gpus) for node in nodes.values()])
        smallest = min((planned.topology.batch.world_size for planned in waiting()), default=0)
        if smallest <= room:
            self._fitted = now
            return False
        if now - self._fitted < self.cluster.node_wait_s:
            return False
        self.say(
            f"a trial asks for {smallest} workers, and the {len(nodes)} node(s) left have held {room} at most for "
            f"{self.cluster.node_wait_s:g} s: nothing can run until nodes come back"
        )
        return True

    def _tell(self, nodes: dict[str, Node]) -> None:
        if not self._nodes:
            return
        for gone in self._nodes.keys() - nodes.keys():
            self.say(f"{self._nodes[gone].name} is gone: its trials go on elsewhere from their last checkpoints")
        for came in nodes.keys() - self._nodes.keys():
            self.say(f"{nodes[came].name} has joined: {nodes[came].cpus:g} CPUs, {nodes[came].gpus:g} GPUs")
