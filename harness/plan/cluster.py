"""Where trials run, as a configuration gives it: every option with its unit, its default and what it must satisfy."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from harness.plan.batch import Placement
from harness.plan.errors import UserError
from harness.plan.execution import ExecutionOptions
from harness.plan.trial import Topology, check_sharding

VARIABLES = re.compile(r"[\w*?]+")
AUTO = "auto"  # device: GPUs where the nodes have any; per_device_batch_size: as large as fits, found by trial runs
DEVICES = (AUTO, "cpu", "cuda")
ANY = "any"  # gpu_model: of whatever model

# Slurm's own formats (man sbatch): minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]].
TIME = re.compile(r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}|UNLIMITED|INFINITE", re.IGNORECASE)
MEMORY = re.compile(r"\d+[KMGT]?B?", re.IGNORECASE)

# Smallest value of the numbers of a cluster; null is allowed where the type says so.
LEAST = {
    "cpus": 1,
    "workers_per_trial": 1,
    "max_workers_per_trial": 1,
    "cpus_per_worker": 1,
    "gpus_per_worker": 0,
    "per_device_batch_size": 1,
    "evaluation_batch_size": 1,
    "max_failures": 0,
    "checkpoint_every_s": 0,
    "report_every_s": 0,
    "grace_s": 0,
    "node_wait_s": 0,
    "hang_s": 0,
    "timing_min_steps": 1,
    "timing_min_s": 0,
    "timing_max_s": 0,
}


@dataclass(frozen=True, kw_only=True)
class Launching:
    """How trials are started, watched and timed."""

    launcher: str  # ray | inline: one trial after another in this process
    address: str = "local"  # local: an embedded Ray | host:port of a running Ray cluster
    cpus: int | None = None  # CPUs an embedded Ray may use; null: all this process may use
    cpus_per_worker: int = 1  # CPU threads of a rank
    max_failures: int = 2  # retries of a trial after a crash, each from its newest checkpoint
    report_every_s: float = 1.0  # seconds between a trial's reports to the driver
    grace_s: float = 60.0  # seconds from a signal until trials that have not stopped are given up
    node_wait_s: float = 60.0  # seconds to wait for lost nodes before a sweep that no longer fits ends
    pass_environment: Sequence[str] = ()  # variables that workers get although they may hold secrets, e.g. [AWS_*]
    timing_min_steps: int = 30  # timing pass: at least so many updates per (TBS, topology), alone on the machine ...
    timing_min_s: float = 1.0  # ... and at least so many seconds ...
    timing_max_s: float = 60.0  # ... but no more than so many, where that is at least 5 updates


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """What `harness submit` requests from Slurm."""

    nodes: int  # more than one: the job starts its own Ray cluster on them
    cpus_per_node: int
    gpus_per_node: int
    time: str  # in Slurm's own format; a longer sweep is requeued and resumes from its checkpoints
    memory_per_node: str | None = None  # e.g. 64G; null: the partition's default
    partition: str | None = None
    account: str | None = None
    no_kill: bool = False  # true: a lost node costs its trials a retry; false: Slurm requeues the whole job
    array: int = 1  # more than one: that many independent one-node jobs share the study's trials
    options: Sequence[str] = ()  # further options of sbatch, e.g. ["--constraint=a100"]

    def __post_init__(self) -> None:
        for key, least in (("nodes", 1), ("array", 1), ("cpus_per_node", 1), ("gpus_per_node", 0)):
            if getattr(self, key) < least:
                raise UserError(f"cluster.slurm.{key} must be >= {least}, not {getattr(self, key)}")
        if not TIME.fullmatch(self.time):
            raise UserError(f"cluster.slurm.time must be like 90 (minutes), 04:00:00 or 2-00:00:00, not {self.time!r}")
        if self.memory_per_node is not None and not MEMORY.fullmatch(self.memory_per_node):
            raise UserError(f"cluster.slurm.memory_per_node must be like 64G or null, not {self.memory_per_node!r}")
        for key in ("partition", "account"):
            value = getattr(self, key)
            if value is not None and not value.strip():
                raise UserError(f"cluster.slurm.{key} must be a name or null, not {value!r}")
        if self.array > 1 and self.nodes > 1:
            raise UserError(
                f"cluster.slurm.array={self.array} submits independent jobs of one node each: "
                "use cluster.slurm.nodes=1 or cluster.slurm.array=1"
            )


@dataclass(frozen=True, kw_only=True)
class ClusterConfig(ExecutionOptions, Launching):
    """The cluster part of a configuration, checked."""

    share_study: bool = False  # true: several drivers may run one study's trials at once (Slurm arrays)
    workers_per_trial: int | None = Placement.workers_per_trial  # DDP ranks of a trial (W); null: W grows with the TBS
    max_workers_per_trial: int | None = Placement.max_workers  # the most that null gives; a larger TBS accumulates
    per_device_batch_size: int | str | None = Placement.max_per_device  # largest micro-batch, examples; smaller than
    # TBS / W means accumulation; null: TBS / W in one piece; auto: what GPU memory allows, found once per study
    device: str = AUTO  # auto: cuda if the nodes of the cluster (inline: this machine) have GPUs, else cpu | cpu | cuda
    gpus_per_worker: float | None = None  # null: 1 on GPUs, 0 on CPUs; a fraction packs trials on a GPU
    gpu_model: str | None = None  # such as H100: only GPUs of this model, by Ray's names; any: of whatever model; null:
    # all have to be of one model, as seconds of different GPUs are never combined (P34)
    precision: str = Topology.precision  # float32 | float64 | bf16 | fp16 (half precision by autocast) | tf32 (GPU)
    sharding: str = Topology.sharding  # none | full: split the model over a trial's workers (docs/sharding.md)
    slurm: Slurm | None = None

    def __post_init__(self) -> None:
        check_sharding(self.sharding)
        if self.sharding == "full" and self.per_device_batch_size == AUTO:
            raise UserError(
                f"cluster.per_device_batch_size={AUTO} tries batches on one worker, which cannot hold a model of "
                "cluster.sharding=full: give a number of examples"
            )
        if self.launcher not in ("ray", "inline"):
            raise UserError(f"cluster.launcher must be ray or inline, not {self.launcher!r}")
        host, _, port = self.address.rpartition(":")
        if self.address != "local" and not (host and port.isdigit()):
            raise UserError(f"cluster.address must be 'local' or host:port, not {self.address!r}")
        for key, least in LEAST.items():
            value = getattr(self, key)
            if isinstance(value, str):
                if value != AUTO:
                    raise UserError(f"cluster.{key} must be a number of examples, null or {AUTO}, not {value!r}")
            elif value is not None and not (math.isfinite(value) and value >= least):
                raise UserError(f"cluster.{key} must be >= {least}, not {value}")
        if self.max_workers_per_trial is not None and self.workers_per_trial is not None:
            raise UserError(
                f"cluster.max_workers_per_trial={self.max_workers_per_trial} limits workers_per_trial=null only: "
                "remove it where cluster.workers_per_trial is a number"
            )
        if wrong := next((name for name in self.pass_environment if not VARIABLES.fullmatch(name)), None):
            raise UserError(
                f"cluster.pass_environment must be names of environment variables, also like AWS_*, not {wrong!r}"
            )
        if self.timing_max_s < self.timing_min_s:
            raise UserError(
                f"cluster.timing_max_s={self.timing_max_s:g} must be >= cluster.timing_min_s={self.timing_min_s:g}"
            )
        if self.device not in DEVICES:
            raise UserError(f"cluster.device must be one of {', '.join(DEVICES)}, not {self.device!r}")
        if self.gpus_per_worker is not None and self.device != AUTO and self.on_gpus != (self.device == "cuda"):
            raise UserError(
                f"cluster.gpus_per_worker={self.gpus_per_worker:g} contradicts cluster.device={self.device}: "
                "remove one of them"
            )
        if self.gpu_model is not None and not self.gpu_model.strip():
            raise UserError(f"cluster.gpu_model must be a model such as H100, {ANY} or null, not {self.gpu_model!r}")
        if self.gpu_model is not None and not self.on_gpus:
            given = "device=cpu" if self.device == "cpu" else "gpus_per_worker=0"
            raise UserError(f"cluster.gpu_model={self.gpu_model} contradicts cluster.{given}: remove one of them")
        self._check_gpus(self.gpus_per_worker or 0.0)

    def _check_gpus(self, gpus: float) -> None:
        if gpus % 1 and (gpus > 1 or self.workers_per_trial != 1):
            raise UserError(
                f"cluster.gpus_per_worker={gpus:g}: use whole GPUs, or a fraction below 1 with workers_per_trial=1 "
                "(two ranks of one trial cannot share a GPU)"
            )
        if 0 < gpus < 1 and not math.isclose(1 / gpus, trials := round(1 / gpus), rel_tol=1e-3):
            raise UserError(
                f"cluster.gpus_per_worker={gpus:g} leaves a part of every GPU unused: use 1/n for n trials on a GPU, "
                f"e.g. {1 / trials:.4g} for {trials}"
            )

    @property
    def on_gpus(self) -> bool | None:
        """Whether trials train on GPUs, as far as the configuration decides it; None: the nodes do."""
        if self.gpus_per_worker is not None:
            return self.gpus_per_worker > 0
        if self.device == AUTO:
            return None if self.gpu_model is None else True
        return self.device == "cuda"

    @property
    def runs_here(self) -> bool:
        """Whether trials run on this machine, not on the nodes of a cluster that is joined."""
        return self.launcher == "inline" or self.address == "local"

    @property
    def placement(self) -> Placement:
        """`auto` counts as null until the session has found the number."""
        micro = self.per_device_batch_size
        return Placement(self.workers_per_trial, None if isinstance(micro, str) else micro, self.max_workers_per_trial)
