"""The typed schema of the composed configuration. Defaults live in conf/, so a missing value stays missing here."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

# The folders of conf/ that a command chooses one file of; experiment is the one that it adds.
GROUPS = ("dataset", "model", "optimizer", "schedule", "lr_scaling", "workload", "cluster", "tracking")


@dataclass
class TargetConfig:
    metric: str = MISSING
    value: float = MISSING
    mode: str = MISSING
    confirm: int = 2


@dataclass
class BatchNormConfig:
    span: str = "none"
    span_examples: int = 1
    statistics: str = "reestimated"
    statistics_examples: int = 0
    half_life_examples: float = 0.0


@dataclass
class AveragingConfig:
    half_life_examples: float = 0.0
    decide_on: str = "raw"


@dataclass
class NoiseScaleConfig:
    in_training: bool = False
    frozen_every_examples: int = 0
    frozen_units: int = 0


@dataclass
class WorkloadConfig:
    name: str = MISSING
    loss: str = MISSING
    target: TargetConfig = field(default_factory=TargetConfig)
    read_beside: TargetConfig | None = None
    budget: dict[str, Any] = MISSING
    base_batch_size: int = MISSING
    base_lr: float = MISSING
    evaluate_every_examples: int = MISSING
    exact_grid: bool = True
    batch_norm: BatchNormConfig = field(default_factory=BatchNormConfig)
    averaging: AveragingConfig = field(default_factory=AveragingConfig)
    clip_norm: float | None = None
    stop_at_target: bool = True
    noise_scale: NoiseScaleConfig = field(default_factory=NoiseScaleConfig)


@dataclass
class CoScalingConfig:
    momentum: str = "fixed"
    beta1: str = "fixed"
    beta2: str = "fixed"
    eps: str = "fixed"
    weight_decay: str = "fixed"
    averaging: str = "half_life"
    warmup: str = "fixed"


@dataclass
class LrScalingConfig:
    rules: list[str] = MISSING
    power: float | None = None
    co_scaling: CoScalingConfig = field(default_factory=CoScalingConfig)


@dataclass
class ParameterGroupsConfig:
    no_decay_on_norms_and_biases: bool = False
    lr_factors: dict[str, float] = field(default_factory=dict)
    frozen: list[str] = field(default_factory=list)


@dataclass
class SlurmConfig:
    nodes: int = MISSING
    cpus_per_node: int = MISSING
    gpus_per_node: int = MISSING
    memory_per_node: str | None = None
    time: str = MISSING
    partition: str | None = None
    account: str | None = None
    no_kill: bool = False
    array: int = 1
    options: list[str] = field(default_factory=list)


@dataclass
class ClusterConfig:
    launcher: str = MISSING
    address: str = "local"
    share_study: bool = False
    cpus: int | None = None
    workers_per_trial: int | None = 1
    max_workers_per_trial: int | None = None
    cpus_per_worker: int = 1
    gpus_per_worker: float | None = None
    per_device_batch_size: int | str | None = None
    evaluation_batch_size: int = 1024
    precision: str = "float32"
    compile: bool = False
    channels_last: bool = False
    gradient_compression: bool = False
    activation_checkpointing: bool = False
    max_failures: int = 2
    checkpoint_every_s: float = 60.0
    report_every_s: float = 1.0
    grace_s: float = 60.0
    node_wait_s: float = 60.0
    hang_s: float = 1800.0
    timing_min_steps: int = 30
    timing_min_s: float = 3.0
    slurm: SlurmConfig | None = None  # what `harness submit` asks Slurm for


@dataclass
class TrackingConfig:
    mode: str = MISSING
    project: str = MISSING
    entity: str | None = None
    tensorboard: bool = False
    finish_s: float = 10.0


@dataclass
class HarnessConfig:
    dataset: dict[str, Any] = MISSING
    model: dict[str, Any] = MISSING
    optimizer: dict[str, Any] = MISSING
    schedule: dict[str, Any] = MISSING
    parameter_groups: ParameterGroupsConfig = field(default_factory=ParameterGroupsConfig)
    lr_scaling: LrScalingConfig = field(default_factory=LrScalingConfig)
    workload: WorkloadConfig = field(default_factory=WorkloadConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    question: dict[str, Any] = MISSING
    seeds: list[int] = MISSING
    study: str = MISSING
    output_dir: str = MISSING
    dry_run: bool = False
    allow_mixed_code: bool = False
