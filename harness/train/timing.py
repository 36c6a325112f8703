"""Seconds per update of one (TBS, topology, precision), measured alone on the machine: the timing pass."""

import statistics
import time
from dataclasses import dataclass, replace

from harness.datasets.examples import Splits
from harness.plan.execution import Speed
from harness.plan.gradient_noise import NoiseScale
from harness.plan.settings import Settings
from harness.plan.trial import Topology
from harness.train.clock import device_wait
from harness.train.learner import Learner
from harness.train.world import World

BLOCKS = 6  # the host waits for the device once per block, so that waiting costs little


@dataclass(frozen=True)
class StepTime:
    """Median over blocks of the seconds per update, with the extremes; `steps` updates in all. For `loader_fraction` of
    the time training waited for data (0 where data are on the device)."""

    median_s: float
    fastest_s: float
    slowest_s: float
    steps: int
    loader_fraction: float = 0.0


def time_steps(
    settings: Settings,
    topology: Topology,
    world: World,
    splits: Splits,
    min_steps: int,
    min_s: float,
    speed: Speed | None = None,
) -> StepTime:
    """Run updates until `min_steps` or `min_s` seconds, whichever comes first, in blocks of equal length."""
    settings = replace(
        settings, noise_scale=NoiseScale()
    )  # time the training alone, without gradient-noise measurement
    learner = Learner(settings, 0, topology, world, splits, speed)
    learner.warm_up()
    wait = device_wait(world.device)
    block_steps = max(1, min_steps // BLOCKS)
    blocks: list[float] = []
    step, began = 0, time.perf_counter()
    while True:
        wait()
        start = time.perf_counter()
        for number, examples in learner.micro_batches(step, step + block_steps):
            learner.update(number, examples)
        wait()
        blocks.append((time.perf_counter() - start) / block_steps)
        step += block_steps
        enough = step >= min_steps or time.perf_counter() - began >= min_s
        if world.decide(int(enough and len(blocks) >= 2)):
            break
    waited = learner.loader.read_waited_s() / (sum(blocks) * block_steps)
    return StepTime(statistics.median(blocks), min(blocks), max(blocks), step, min(1.0, waited))
