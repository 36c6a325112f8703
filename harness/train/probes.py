"""Probes of a workload: trials of a few updates, run like any other, and a subject for calls of its model alone."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from harness.datasets.examples import Splits
from harness.plan.batch import Placement
from harness.plan.coscaling import CoScaling
from harness.plan.duration import Duration
from harness.plan.gradient_noise import NoiseScale
from harness.plan.settings import Averaging, Settings
from harness.plan.target import Target
from harness.plan.trial import Arm, PlannedTrial, Topology, Trial
from harness.plan.workload import Workload
from harness.train.excerpt import Excerpt
from harness.train.precision import DTYPES
from harness.train.still import without_chance, without_dropout
from harness.train.subject import Subject
from harness.train.trainer import Execution
from harness.train.worker import Task

TOLERANCES = {"float64": 1e-9, "float32": 1e-3}  # relative, over a few updates
CALL_TOLERANCES = {"float64": 1e-9, "float32": 1e-4}  # relative, of a single call
EXAMPLES = 101  # validation and test examples of a probe: odd, so neither two ranks nor a batch size divide them
EVALUATION_BATCH = 16
MICRO = 8  # examples of the smallest micro-batch where there is no ghost group to keep whole
STILL = 1e-12  # an LR that does not move the weights


@dataclass(frozen=True)
class Probes:
    """Small trials of one workload, in `folder`."""

    workload: Workload
    folder: Path
    updates: int
    device: str  # for the probes that compare ways to split a batch
    topology: tuple[str, str]  # device and precision of the user's own trials
    precision: str = "float64"  # of the probes that compare ways to split a batch
    has_chance: bool = False  # whether the model draws random numbers in training outside its dropout modules
    ranks: int = 2  # the most that `device` has room for

    @property
    def tolerance(self) -> float:
        return TOLERANCES[self.precision]

    @property
    def total_batch_size(self) -> int:
        """Four of the smallest micro-batches, so that two ranks with two accumulation steps are possible."""
        ghost = self.workload.batch_norm.span == "ghost"
        return 4 * (self.workload.batch_norm.span_examples if ghost else MICRO)

    def split(self, world: int, accumulation: int, evaluation_batch: int, lr: float | None = None) -> Task:
        """A probe without chance, which must agree whatever splits its batch."""
        name = f"w{world}-a{accumulation}-e{evaluation_batch}-{lr}"
        still = without_chance if self.has_chance else without_dropout
        model = {"_target_": f"{still.__module__}.{still.__name__}", "model": dict(self.workload.model)}
        settings = self._settings(world, accumulation, model, lr)
        return self._task(
            name, settings, world, accumulation, (self.device, self.precision), Execution(evaluation_batch, hang_s=0.0)
        )

    def real(self, name: str) -> Task:
        """A probe on one rank, in the precision of the user's trials, with a checkpoint after every evaluation."""
        settings = self._settings(1, 1, self.workload.model, None)
        return self._task(name, settings, 1, 1, self.topology, Execution(checkpoint_every_s=0.0, hang_s=0.0))

    def _settings(self, world: int, accumulation: int, model: Mapping[str, Any], lr: float | None) -> Settings:
        size, target = self.total_batch_size, self.workload.target
        excerpt = {"_target_": f"{Excerpt.__module__}.{Excerpt.__name__}", "dataset": dict(self.workload.dataset)}
        unreachable = 1e30 if target.mode == "max" else -1e30
        probe = replace(
            self.workload,
            dataset={**excerpt, "examples": EXAMPLES},
            model=model,
            # Every update has a different LR, so that one update too many would show.
            schedule={"_target_": "harness.plan.schedules.Constant", "warmup": {"steps": self.updates}},
            target=Target(target.metric, unreachable, target.mode, confirm=1),
            budget=Duration(self.updates * size, "examples"),
            base_batch_size=size,
            evaluate_every_examples=size,
            exact_grid=True,
            co_scaling=CoScaling(),
            noise_scale=NoiseScale(),
            placement=Placement(world, size // (world * accumulation)),
        )
        return probe.arm_at_lr(self.workload.base_lr if lr is None else lr, size, label="doctor").settings

    def _task(
        self, name: str, settings: Settings, world: int, accumulation: int, where: tuple[str, str], how: Execution
    ) -> Task:
        size = self.total_batch_size
        batch = Placement(world, size // (world * accumulation)).plan(size, 1)
        trial_id = Trial(Arm("", "", "", 1, 1.0, settings), 0).trial_id
        return Task(trial_id, settings, 0, Topology(batch, *where), str(self.folder / name), how)

    def planned(self) -> PlannedTrial:
        """A probe of the workload as it is, to rehearse."""
        task = self.real("rehearsal")
        settings = replace(task.settings, dataset=self.workload.dataset)
        return PlannedTrial(Trial(Arm("", "", "", 1, 1.0, settings), 0), task.topology)

    def subject(self, splits: Splits) -> Subject:
        """The workload's model for calls in this process, in float64; in float32 where it cannot be called in that."""
        for precision in TOLERANCES:
            task = replace(self, precision=precision).split(1, 1, EXAMPLES)
            settings = replace(task.settings, model=self.workload.model, averaging=Averaging())
            device, dtype = torch.device(self.device), DTYPES[precision]
            parts = {name: getattr(splits, name).to(device, dtype) for name in ("train", "validation", "test")}
            subject = Subject(settings, task.topology, replace(splits, **parts), CALL_TOLERANCES[precision])
            try:
                subject.run(subject.build(), range(2))
                return subject
            except Exception:
                if precision == "float32":
                    raise
        raise AssertionError("float32 is the last precision")
