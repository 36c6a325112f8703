"""A gang of Ray actors in a placement group, one bundle per worker; the first failure kills the whole gang (P21)."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from harness.launch.causes import cause
from harness.launch.devices import OF_SLICES
from harness.launch.environment import passed
from harness.launch.gang import GangError, send_output_to
from harness.launch.preflight import see_study
from harness.launch.tasks import Cluster
from harness.plan.timing import Machine, RoundLimits, joined
from harness.record.gpus import MIG
from harness.train.timing import Round
from harness.train.worker import Task, Worker

PLACEMENT_S = 60.0  # time to find space for the timing pass once the trials have ended


class WorkerLocation(NamedTuple):
    """The node and the GPUs of a worker."""

    node_id: str  # nodes on one machine, as in tests, share an address but never an id
    address: str
    gpus: tuple[str, ...]  # as Ray numbers them on that node; they may be UUIDs

    @property
    def sort_key(self) -> tuple[Any, ...]:
        """Sorts the ranks of a node next to each other, in order of their GPUs."""
        return self.node_id, [(len(gpu), gpu) for gpu in self.gpus]


def rank_devices(locations: Sequence[WorkerLocation]) -> list[tuple[str, dict[str, str]]]:
    """(torch device, environment) by rank: every rank sees all GPUs of its gang on its node, which NCCL needs to reach
    its neighbours directly, and computes on its own GPU."""
    devices = []
    if len(locations) > 1 and any(gpu.startswith(MIG) for location in locations for gpu in location.gpus):
        raise GangError(f"ranks of one trial are on MIG slices: {OF_SLICES}")
    for location in locations:
        visible = [gpu for other in locations if other.node_id == location.node_id for gpu in other.gpus]
        devices.append((f"cuda:{visible.index(location.gpus[0])}", {"CUDA_VISIBLE_DEVICES": ",".join(visible)}))
    return devices


def interface_of(address: str) -> str | None:
    """The network interface that has this address of this machine, for gloo and NCCL to use."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(item.address.partition("%")[0] == address for item in addresses):
            return name
    return None


class RankActor:
    """A Ray actor around one Worker."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.worker: Worker | None = None

    def location(self) -> WorkerLocation:
        gpus = tuple(str(gpu) for gpu in ray.get_gpu_ids())
        return WorkerLocation(ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address(), gpus)

    def take_rank(self, rank: int, world_size: int, device: str, environment: Mapping[str, str]) -> None:
        """Make the Worker of a rank; sets the environment first, as CUDA and the process group read it on start."""
        os.environ.update(environment)
        if interface := interface_of(ray.util.get_node_ip_address()):
            for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
                os.environ.setdefault(name, interface)
        self.worker = Worker(rank, world_size, device, self.threads)

    def start(self, task: Task) -> None:
        see_study(task.execution)
        send_output_to(Path(task.folder) / "log.txt")
        assert self.worker is not None
        self.worker.start(task)

    def call(self, method: str, *args: Any) -> Any:
        return getattr(self.worker, method)(*args)


class RayGang:
    """W workers on the bundles of a placement group, beginning with `first_bundle`; `environment`: variables that they
    get in addition to their node's."""

    def __init__(
        self,
        group: PlacementGroup,
        world_size: int,
        device: str,
        cpus: int,
        gpus: float,
        first_bundle: int = 0,
        *,
        environment: Mapping[str, str],
    ) -> None:
        actor = ray.remote(RankActor)
        self.actors: list[Any] = [
            actor.options(
                num_cpus=cpus,
                num_gpus=gpus,
                max_restarts=0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, first_bundle + index),
            ).remote(cpus)
            for index in range(world_size)
        ]
        locations: list[WorkerLocation] = self._wait([a.location.remote() for a in self.actors])
        order = sorted(range(world_size), key=lambda i: (*locations[i].sort_key, i))
        self.actors, locations = [self.actors[i] for i in order], [locations[i] for i in order]
        devices = rank_devices(locations) if device == "cuda" else [(device, {})] * world_size
        taken = []
        for rank, actor in enumerate(self.actors):
            where, visible = devices[rank]
            taken.append(actor.take_rank.remote(rank, world_size, where, {**environment, **visible}))
        self._wait(taken)
        if world_size > 1:
            host = locations[0].address
            port = self._wait([self.actors[0].call.remote("bind_store", host)])[0]
            self._wait([a.call.remote("join", host, port) for a in self.actors])

    def start(self, task: Task) -> None:
        self._wait([actor.start.remote(task) for actor in self.actors])

    def advance(self, seconds: float) -> list[dict[str, Any]]:
        return self._wait([actor.call.remote("advance", seconds) for actor in self.actors])[0]

    def time_rounds(self, task: Task, limits: RoundLimits, rounds: int) -> list[Round]:
        return self._wait([a.call.remote("time_rounds", task, limits, rounds) for a in self.actors])[0]

    def measure_parts(self, task: Task) -> dict[str, Any]:
        return self._wait([a.call.remote("measure_parts", task) for a in self.actors])[0]

    def machine(self) -> Machine:
        return joined(self._wait([actor.call.remote("machine") for actor in self.actors]))

    def largest_micro_batch(self, task: Task, memory_share: float) -> int:
        return min(self._wait([a.call.remote("largest_micro_batch", task, memory_share) for a in self.actors]))

    def resident_bytes(self) -> int:
        return max(self._wait([actor.call.remote("resident_bytes") for actor in self.actors]))

    def close(self) -> None:
        for actor in self.actors:
            ray.kill(actor)
        self.actors = []

    def _wait(self, futures: list[Any]) -> list[Any]:
        """All answers in order; the first failure kills every worker, so that none waits in a collective forever."""
        pending = list(futures)
        try:
            while pending:
                ready, pending = ray.wait(pending, num_returns=1)
                ray.get(ready)
            return ray.get(futures)
        except RayError as error:
            self.close()
            raise GangError(cause(str(error))) from error


class ExclusiveGangs:
    """One gang at a time, on its own placement group, for the timing pass."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._held: tuple[tuple[int, str], PlacementGroup, RayGang] | None = None

    def of(self, world_size: int, device: str | None = None) -> RayGang:
        key = (world_size, device or self.cluster.device)
        if self._held is not None and self._held[0] == key and self._held[2].actors:
            return self._held[2]
        self.close()
        cpus, gpus = self.cluster.cpus_per_worker, self.cluster.gpus_per_worker
        group = placement_group([self.cluster.bundle] * world_size, strategy="PACK")
        ray.get(group.ready(), timeout=PLACEMENT_S)
        gang = RayGang(group, *key, cpus, gpus, environment=passed(self.cluster.pass_environment))
        self._held = (key, group, gang)
        return gang

    def drop(self, world_size: int, device: str | None = None) -> None:
        """A gang that failed is never used again (P21)."""
        if self._held is not None and self._held[0] == (world_size, device or self.cluster.device):
            self.close()

    def close(self) -> None:
        if self._held is not None:
            _, group, gang = self._held
            gang.close()
            remove_placement_group(group)
            self._held = None
