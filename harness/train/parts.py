"""What an update is made of and what a run spends besides, each measured alone: for +experiment=step_time."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from harness.datasets.examples import Splits
from harness.plan.settings import Settings
from harness.plan.trial import Topology
from harness.train.checkpoint import save_checkpoint
from harness.train.clock import device_wait
from harness.train.evaluation import Evaluator
from harness.train.learner import Learner
from harness.train.learner_state import state_of
from harness.train.machine import resident_bytes
from harness.train.trainer import Execution
from harness.train.world import World

REPEATS = 5  # of each part, after one that is not counted; the median is kept
PAYLOADS = tuple(1 << power for power in range(12, 25, 2))  # bytes of an all-reduce: 4 KiB to 16 MiB


def measure_parts(
    settings: Settings, topology: Topology, world: World, splits: Splits, execution: Execution
) -> dict[str, Any]:
    """Seconds of the slowest rank, peak memory of the largest; all ranks must call it together."""
    began = time.perf_counter()
    learner = Learner(settings, 0, topology, world, splits, execution)
    learner.warm_up()
    start_up = time.perf_counter() - began
    evaluator = Evaluator(learner, execution.evaluation_batch_size)
    timed = _Timer(world)
    gradients = sum(p.numel() * p.element_size() for p in learner.model.parameters() if p.requires_grad)
    found: dict[str, Any] = {
        "start_up_s": timed.slowest(start_up),
        "evaluation_s": timed.of(evaluator.validation_scores),
        "optimizer_s": timed.of(_optimizer_step(learner)),
        "checkpoint_s": timed.of(lambda: _save(learner)) if world.rank == 0 else 0.0,
        "gradient_bytes": float(gradients),
    }
    world.meet()
    if world.size > 1:
        found["all_reduce"] = [[size, timed.of(_all_reduce(world, size))] for size in sorted({*PAYLOADS, gradients})]
    on_gpu = world.device.type == "cuda"
    found["peak_memory_bytes"] = float(torch.cuda.max_memory_allocated(world.device) if on_gpu else resident_bytes())
    return found


class _Timer:
    def __init__(self, world: World) -> None:
        self.world, self.wait = world, device_wait(world.device)

    def of(self, part: Callable[[], object]) -> float:
        """The median of some calls, on this rank; collectives make it that of all."""
        spent = []
        for _ in range(REPEATS + 1):
            self.wait()
            began = time.perf_counter()
            part()
            self.wait()
            spent.append(time.perf_counter() - began)
        return statistics.median(spent[1:])

    def slowest(self, seconds: float) -> float:
        return float(self.world.maximum(torch.tensor(seconds, device=self.world.device, dtype=torch.float64)))


def _optimizer_step(learner: Learner) -> Callable[[], object]:
    """One optimizer update on gradients that are there."""
    size = learner.batch.per_device_batch_size
    examples = torch.arange(size, device=learner.world.device) % learner.settings.train_examples
    epochs = torch.zeros_like(examples)
    batch = learner.augmented(learner.loader.batch(examples, epochs), examples, epochs)
    learner.measure(learner.model, batch)[0].backward()
    return learner.optimizer.step


def _save(learner: Learner) -> None:
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder), 0, state_of(learner))


def _all_reduce(world: World, size: int) -> Callable[[], object]:
    payload = torch.zeros(max(1, size // 4), device=world.device)
    return lambda: world.sum(payload)
