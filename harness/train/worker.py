"""A warm process that runs trials one after another, keeping data, process group and device context between them."""

import faulthandler
import gc
import ipaddress
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from harness.datasets.examples import Splits
from harness.plan.errors import UserError
from harness.plan.instantiate import instantiate
from harness.plan.settings import Settings, fingerprint
from harness.plan.timing import Machine, RoundLimits
from harness.plan.trial import Topology
from harness.record.files import write_json
from harness.record.journal import Attempt
from harness.train.allocator import begin_peak, keep_freed_memory, limit_gpu_memory, release_cache
from harness.train.machine import machine, resident_bytes
from harness.train.micro_batch import largest_micro_batch
from harness.train.parts import measure_parts
from harness.train.precision import DTYPES
from harness.train.resource_use import ResourceUse
from harness.train.timing import Round, time_rounds
from harness.train.trainer import Execution, train
from harness.train.world import World

COLLECTIVE_TIMEOUT = timedelta(minutes=10)
STDERR = 2  # the file descriptor, which is a trial's log whatever sys.stderr is


@dataclass(frozen=True)
class Task:
    """One trial to run, as sent to the workers."""

    trial_id: str
    settings: Settings
    seed: int
    topology: Topology
    folder: str  # of this replica, on the shared file system
    execution: Execution

    def to_json(self) -> dict[str, Any]:
        """The content of trial.json; the folder is left out, so that a study can be moved."""
        topology = {"key": self.topology.key, **self.topology.to_json()}
        settings = self.settings.to_json()
        return {"trial_id": self.trial_id, "seed": self.seed, "topology": topology, "settings": settings}

    @staticmethod
    def from_json(value: Mapping[str, Any], folder: str, execution: Execution | None = None) -> "Task":
        topology = {key: item for key, item in value["topology"].items() if key != "key"}
        return Task(
            value["trial_id"],
            Settings.from_json(value["settings"]),
            value["seed"],
            Topology.from_json(topology),
            folder,
            execution or Execution(),
        )


class Worker:
    """One rank. `start` a task, then `advance` until it is done; all ranks of a gang get the same calls.

    `memory_share`: of its GPU; below 1 where it shares the GPU with workers of other trials.
    """

    def __init__(self, rank: int, world_size: int, device: str, threads: int, memory_share: float = 1.0) -> None:
        torch.set_num_threads(max(1, threads))  # set, not inherited
        keep_freed_memory()
        self.world = World(rank, world_size, torch.device(device))
        self.shares_gpu = memory_share < 1
        limit_gpu_memory(self.world.device, memory_share)
        self._splits: dict[str, Splits] = {}
        self._running: Iterator[list[dict[str, Any]]] | None = None
        self._attempt: Attempt | None = None
        self._use: ResourceUse | None = None  # of the running trial, on rank 0
        self._pause_at = 0.0
        self._hang_s = 0.0

    def bind_store(self, host: str) -> int:
        """Rank 0: open the rendezvous store on a free port of `host` and return the port, which no one else can take.

        It listens on that address only, hence on loopback for a gang on one machine; torch's own store listens on all.
        """
        listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        port = listener.getsockname()[1]
        self._store = TCPStore(
            host,
            port,
            self.world.size,
            is_master=True,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),  # the store closes it
        )
        return self._store.port

    def join(self, host: str, port: int) -> None:
        """Form the process group over the store that rank 0 has bound."""
        if self.world.device.type == "cuda":
            torch.cuda.set_device(self.world.device)
        if ipaddress.ip_address(host).is_loopback:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # otherwise gloo listens where the host name resolves to
        if not self.world.is_main:
            self._store = TCPStore(host, port, self.world.size, is_master=False)
        backend = "nccl" if self.world.device.type == "cuda" else "gloo"
        dist.init_process_group(
            backend,
            store=self._store,
            rank=self.world.rank,
            world_size=self.world.size,
            timeout=COLLECTIVE_TIMEOUT,
        )

    def splits(self, settings: Settings, topology: Topology) -> Splits:
        """The task's data on this rank's device, kept from trial to trial. UserError if not of the planned size."""
        key = fingerprint({"dataset": dict(settings.dataset), "precision": topology.precision})
        if key not in self._splits:
            self._splits.clear()  # the device holds one workload's data at a time
            loaded: Splits = instantiate(settings.dataset).load()
            device, dtype = self.world.device, DTYPES[topology.precision]
            self._splits[key] = replace(
                loaded,
                train=loaded.train.to(device, dtype),
                validation=loaded.validation.to(device, dtype),
                test=loaded.test.to(device, dtype),
            )
        if (size := len(self._splits[key].train)) != settings.train_examples:
            raise UserError(
                f"the training set on this node has {size} examples, but the trial was planned for "
                f"{settings.train_examples}"
            )
        return self._splits[key]

    def start(self, task: Task) -> None:
        """Begin a trial; rank 0 claims its folder, which fences off any earlier attempt."""
        self.stop()
        begin_peak(self.world.device)
        folder, splits = Path(task.folder), self.splits(task.settings, task.topology)
        if self.world.is_main:
            self._attempt = Attempt.claim(folder)
            write_json(folder / "trial.json", task.to_json())
            self._use = ResourceUse(self.world.device)
        self._running = train(
            task.settings,
            task.seed,
            task.topology,
            self.world,
            splits,
            folder,
            self._attempt,
            task.execution,
            wants_pause=lambda: time.monotonic() >= self._pause_at,
            wants_drain=task.execution.is_draining,
            beat=lambda: _watch(task.execution.hang_s),
            resource_use=self._use.read if self._use is not None else dict,
        )
        self._hang_s = task.execution.hang_s

    def advance(self, seconds: float) -> list[dict[str, Any]]:
        """Continue training until the first evaluation after `seconds`; returns the rows written.

        The last one is `end` when done and `drain` when stopped on request; after either, the list is empty.
        """
        self._pause_at = time.monotonic() + seconds
        _watch(self._hang_s)
        try:
            rows = next(self._running, []) if self._running is not None else []
        finally:
            faulthandler.cancel_dump_traceback_later()
        if not rows or rows[-1]["kind"] in ("end", "drain"):
            self.stop()
        return rows

    def time_rounds(self, task: Task, limits: RoundLimits, rounds: int) -> list[Round]:
        """Seconds of updates of a task's (TBS, topology, precision); this gang must be alone on its nodes."""
        splits = self.splits(task.settings, task.topology)
        return [*time_rounds(task.settings, task.topology, self.world, splits, limits, rounds, task.execution)]

    def measure_parts(self, task: Task) -> dict[str, Any]:
        """See train.parts; this gang must be alone on its nodes."""
        splits = self.splits(task.settings, task.topology)
        return measure_parts(task.settings, task.topology, self.world, splits, task.execution)

    def machine(self) -> Machine:
        """What this rank computes on."""
        return machine(self.world.device)

    def largest_micro_batch(self, task: Task, memory_share: float) -> int:
        """See train.micro_batch; each rank tries for itself."""
        alone, splits = replace(self.world, rank=0, size=1), self.splits(task.settings, task.topology)
        return largest_micro_batch(task.settings, task.topology, alone, splits, task.execution, memory_share)

    def stop(self) -> None:
        """Drop the running trial, if any; its files are not touched."""
        if self._running is None and self._attempt is None:
            return
        self._running = None
        if self._use is not None:
            self._use.close()
            self._use = None
        if self._attempt is not None:
            self._attempt.close()
            self._attempt = None
        gc.collect()  # DDP and its hooks form cycles; memory must not grow over many trials
        gc.freeze()  # what is left outlives trials: not walking it again makes the next collection cheap
        if self.shares_gpu:
            release_cache(self.world.device)

    def resident_bytes(self) -> int:
        """Resident memory of this process."""
        return resident_bytes()


def _watch(hang_s: float) -> None:
    """Unless called again in time, every thread's traceback goes to the trial's log and this process ends.

    The watchdog is the interpreter's own thread and needs no lock, so it also ends a rank stuck in a collective, in a
    driver or in a lock; its gang fails at once and the trial resumes from its checkpoint.
    """
    if hang_s:
        faulthandler.dump_traceback_later(hang_s, exit=True, file=STDERR)
