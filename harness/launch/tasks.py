"""From planned trials to tasks for workers, and the record of a trial that failed permanently."""

import errno
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from harness.launch.ray_probe import GPU_MODEL
from harness.plan.cluster import ClusterConfig, Launching
from harness.plan.execution import ExecutionOptions
from harness.plan.outcome import Outcome
from harness.plan.trial import PlannedTrial, Topology
from harness.record.journal import Attempt
from harness.record.limit import NAME as LIMIT
from harness.train.trainer import Execution
from harness.train.worker import Task

SLIVER = 0.001  # of the one unit of its GPU model that a node has: as Ray's own option `accelerator_type` asks for it


@dataclass(frozen=True, kw_only=True)
class Cluster(Launching):
    """Where and how trials run; nothing here changes their results by more than rounding."""

    gpus_per_worker: float  # 0: trials run on CPUs
    gpu_model: str = ""  # as Ray names it: only on nodes with GPUs of this model; empty: on any
    execution: Execution
    precision: str = Topology.precision
    sharding: str = Topology.sharding

    @property
    def device(self) -> str:
        return "cuda" if self.gpus_per_worker else "cpu"

    @property
    def bundle(self) -> dict[str, float]:
        """What Ray reserves for a worker."""
        gpus = {"GPU": float(self.gpus_per_worker)} if self.gpus_per_worker else {}
        model = {f"{GPU_MODEL}{self.gpu_model}": SLIVER} if self.gpu_model else {}
        return {"CPU": float(self.cpus_per_worker), **gpus, **model}


def cluster_of(config: ClusterConfig, on_gpus: bool, gpu_model: str = "") -> Cluster:
    """The cluster of a configuration, once it is settled whether its trials train on GPUs, and on which."""
    gpus = (config.gpus_per_worker or 1.0) if on_gpus else 0.0
    execution = Execution(**_part(config, ExecutionOptions))
    launching = _part(config, Launching)
    topology: dict[str, Any] = {"precision": config.precision, "sharding": config.sharding}
    return Cluster(**launching, gpus_per_worker=gpus, gpu_model=gpu_model, execution=execution, **topology)


def _part(config: ClusterConfig, options: type[ExecutionOptions] | type[Launching]) -> dict[str, Any]:
    """The values of one of the classes that make up a configuration's cluster."""
    return {field.name: getattr(config, field.name) for field in fields(options)}


def task_of(planned: PlannedTrial, study: Path, execution: Execution, races: bool = False) -> Task:
    """The task of one planned trial in a study folder; a trial that `races` reads its limit."""
    trial = planned.trial
    folder = study / "trials" / planned.key
    if races:
        execution = replace(execution, limit_file=str(folder / LIMIT))
    return Task(trial.trial_id, trial.arm.settings, trial.seed, planned.topology, str(folder), execution)


def write_failure(study: Path, key: str, reason: str) -> None:
    """Record that a trial failed permanently: kept, counted, and run again when the study is next started.

    OSError if the study cannot be written or no longer exists: a folder that is gone must not be created again.
    """
    if not (study / "study.json").exists():
        raise OSError(errno.EIO, "the study no longer exists", str(study))
    folder = study / "trials" / key
    attempt = Attempt.claim(folder)
    attempt.finish({"outcome": Outcome.FAILED, "error": reason})
    attempt.close()
