"""Seconds per update of one (TBS, topology, precision), measured alone on the machine: the timing pass."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from harness.datasets.examples import Splits
from harness.plan.execution import Speed
from harness.plan.gradient_noise import NoiseScale
from harness.plan.settings import Settings
from harness.plan.timing import RoundLimits
from harness.plan.trial import Topology
from harness.train.clock import device_wait
from harness.train.learner import Learner
from harness.train.machine import MachineLoad
from harness.train.world import World

SETTLING_STEPS = 1  # untimed updates of each block: the stream has begun, and caches hold this model again
MARGIN = 1.1  # a block aims at more than the minimum, so that it rarely has to be repeated


@dataclass(frozen=True)
class Round:
    """One uninterrupted block of updates."""

    steps: int
    seconds: float  # of the slowest rank
    loader_fraction: float  # of the time training waited for data; 0 where data are on the device
    other_cpus: float  # CPUs that other processes kept busy meanwhile, on the node where they were most

    @property
    def step_s(self) -> float:
        return self.seconds / self.steps


def time_rounds(
    settings: Settings,
    topology: Topology,
    world: World,
    splits: Splits,
    limits: RoundLimits,
    rounds: int,
    speed: Speed | None = None,
) -> Iterator[Round]:
    """So many rounds one after another, by one learner."""
    settings = replace(settings, noise_scale=NoiseScale())  # the training alone, without measuring gradient noise
    learner = Learner(settings, 0, topology, world, splits, speed)
    learner.warm_up()
    position = 0

    def block(steps: int) -> Round:
        nonlocal position
        start, position = position, position + SETTLING_STEPS + steps
        return _block(learner, start, steps)

    for _ in range(rounds):
        yield long_enough(block, limits)


def long_enough(block: Callable[[int], Round], limits: RoundLimits) -> Round:
    """The first block that is within the limits; shorter ones before it tell how long an update takes."""
    steps = limits.least_steps
    while True:
        measured = block(steps)
        wanted = limits.wanted_steps(measured.step_s)
        if steps >= wanted:
            return measured
        steps = min(math.ceil(MARGIN * wanted), limits.most_steps(measured.step_s))


def _block(learner: Learner, start: int, steps: int) -> Round:
    """Time `steps` updates from one stream, which begins a few updates earlier; all ranks get the same seconds."""
    world, wait = learner.world, device_wait(learner.world.device)
    # Beyond a trial's last update its schedule may be at LR 0, where processors work at another speed.
    last = learner.settings.budget_steps
    stream = learner.micro_batches(start, start + SETTLING_STEPS + steps)
    for _ in range(SETTLING_STEPS):
        number, examples = next(stream)
        learner.update(number % last, examples)
    world.meet()
    wait()
    learner.loader.read_waited_s()
    load, began = MachineLoad(world), time.perf_counter()
    for number, examples in stream:
        learner.update(number % last, examples)
    wait()
    spent = torch.tensor(time.perf_counter() - began, device=world.device, dtype=torch.float64)
    other_cpus = load.other_cpus()
    seconds = float(world.maximum(spent))
    waited = min(1.0, learner.loader.read_waited_s() / seconds)
    return Round(steps, seconds, waited, other_cpus)
