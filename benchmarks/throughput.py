"""Examples per second of the harness's loop relative to hand-written loops over the same model, in one run.

    python benchmarks/throughput.py [--workloads resnet20 gpt] [--precision float32] [--compile] [--repeats 5]

same settings: the hand-written loop has the same model (with its ghost batch norm), batch, optimizer, LR, compilation
and memory settings, and nothing else; the ratio is the cost of the harness's bookkeeping. plain eager: the model as
its author wrote it, ordinary batch norm, torch's default optimizer implementation and memory settings. data loader:
like plain eager, with batches collated by torch's DataLoader (two workers) from a data set of single examples, as in
most training scripts. Each loop has its own process; their blocks of updates alternate, so that other load on the
machine affects all of them; medians of the paired ratios with their extremes.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from harness.datasets.examples import Splits, TensorExamples
from harness.plan.batch import plan_batch
from harness.plan.execution import Speed
from harness.plan.instantiate import instantiate
from harness.plan.settings import BatchNorm, Settings
from harness.plan.target import Target
from harness.plan.trial import Topology
from harness.record.provenance import cpu_model
from harness.train.allocator import keep_freed_memory
from harness.train.clock import device_wait
from harness.train.learner import Learner
from harness.train.world import World

EXAMPLES = 4096
LOADER_WORKERS = 2
WARM_UP = 3  # updates
LOOPS = ("harness", "same settings", "plain eager", "data loader")


@dataclass(frozen=True)
class Case:
    """A model, its data and a batch."""

    model: dict[str, Any]
    optimizer: dict[str, Any]
    total_batch_size: int
    group: int  # ghost batch norm; 0: the model has none
    inputs: Callable[[], Tensor]
    targets: Callable[[], Tensor]


CASES = {
    "resnet20": Case(
        {"_target_": "harness.models.resnet.CifarResNet", "depth": 20},
        {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
        128,
        32,
        lambda: torch.randn(EXAMPLES, 3, 32, 32),
        lambda: torch.randint(10, (EXAMPLES,)),
    ),
    "gpt": Case(
        {"_target_": "harness.models.gpt.GPT", "vocabulary": 256, "context": 128, "depth": 2, "width": 64, "heads": 4},
        {"_target_": "torch.optim.AdamW", "lr": 1e-3, "weight_decay": 0.1},
        32,
        0,
        lambda: torch.randint(256, (EXAMPLES, 128)),
        lambda: torch.randint(256, (EXAMPLES, 128)),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--compile", action="store_true", help="torch.compile in the harness and same-settings loop")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument(
        "--fused", action="store_true", help="fused optimizer in the harness and the same-settings loop"
    )
    parser.add_argument("--repeats", type=int, default=5, help="paired blocks")
    parser.add_argument("--block-s", type=float, default=2.0, help="approximate seconds per block")
    arguments = parser.parse_args()
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model()
    print(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.precision}")
    for workload in arguments.workloads:
        measure(workload, CASES[workload], device, arguments)


def measure(name: str, case: Case, device: torch.device, arguments: argparse.Namespace) -> None:
    """Print one line: examples/s of the harness and its ratios to the hand-written loops."""
    if arguments.fused:
        case = replace(case, optimizer={**case.optimizer, "fused": True})
    context = multiprocessing.get_context("spawn")
    loops: dict[str, Connection] = {}
    for loop in LOOPS:
        loops[loop], theirs = context.Pipe()
        context.Process(target=serve, args=(loop, name, case.optimizer, device, arguments, theirs)).start()
        theirs.close()
    warm = [pipe.recv() for pipe in loops.values()]
    updates = max(1, int(arguments.block_s / min(warm)))
    seconds: dict[str, list[float]] = {loop: [] for loop in loops}
    for _ in range(arguments.repeats):
        for loop, pipe in loops.items():
            pipe.send(updates)
            seconds[loop].append(pipe.recv())
    for pipe in loops.values():
        pipe.send(0)
    rate = case.total_batch_size / statistics.median(seconds["harness"])
    ratios = [
        f"{spread([bare / ours for bare, ours in zip(seconds[loop], seconds['harness'], strict=True)])} of {loop}"
        for loop in loops
        if loop != "harness"
    ]
    print(f"{name}, batch {case.total_batch_size}: {rate:,.0f} examples/s, {', '.join(ratios)}", flush=True)


def serve(
    loop: str,
    name: str,
    optimizer: dict[str, Any],
    device: torch.device,
    arguments: argparse.Namespace,
    pipe: Connection,
) -> None:
    """The main function of a process with one loop. Sends seconds per update once warm, then those of each block."""
    case = replace(CASES[name], optimizer=optimizer)
    torch.manual_seed(0)
    if loop in ("harness", "same settings"):
        keep_freed_memory()  # like every worker
    data = TensorExamples(case.inputs(), case.targets()).to(device, torch.float32)
    learner = make_learner(case, data, device, arguments)
    plain = {key: value for key, value in optimizer.items() if key != "fused"}
    if loop == "harness":
        run = harness_loop(learner)
    elif loop == "same settings":
        run = bare_loop(learner.model, learner.train_model, optimizer, resident_batches(case, data, device), learner)
    else:
        model = instantiate(case.model).to(device)
        batches = (loaded_batches if loop == "data loader" else resident_batches)(case, data, device)
        run = bare_loop(model, model, plain, batches, learner)
    wait = device_wait(device)
    block(run, WARM_UP, wait)
    pipe.send(block(run, WARM_UP, wait))
    while updates := pipe.recv():
        pipe.send(block(run, updates, wait))


def make_learner(case: Case, data: TensorExamples, device: torch.device, arguments: argparse.Namespace) -> Learner:
    """The harness's side: everything of a trial except its journal."""
    settings = Settings(
        dataset={},
        model=case.model,
        loss="cross_entropy",
        optimizer=case.optimizer,
        schedule={"_target_": "harness.plan.schedules.Constant"},
        total_batch_size=case.total_batch_size,
        train_examples=EXAMPLES,
        target=Target("accuracy", 1.0, "max"),
        budget_examples=EXAMPLES,
        evaluate_every_examples=EXAMPLES,
        batch_norm=BatchNorm("ghost", case.group, statistics_examples=case.group) if case.group else BatchNorm(),
    )
    topology = Topology(plan_batch(case.total_batch_size, 1), device.type, arguments.precision)
    splits = Splits(data, data, data, "random")
    speed = Speed(compile=arguments.compile, channels_last=arguments.channels_last)
    learner = Learner(settings, 0, topology, World(0, 1, device), splits, speed)
    learner.warm_up()
    return learner


def harness_loop(learner: Learner) -> Callable[[int], None]:
    """Updates as made by the trainer."""
    step = 0

    def run(updates: int) -> None:
        nonlocal step
        for number, examples in learner.micro_batches(step, step + updates):
            learner.update(number, examples)
        step += updates

    return run


def bare_loop(
    model: nn.Module,
    forward: Callable[..., Any],
    optimizer_spec: dict[str, Any],
    batches: Iterator[tuple[Tensor, Tensor]],
    learner: Learner,
) -> Callable[[int], None]:
    """The same updates written by hand, in the same precision; `forward` is `model` or its compiled form."""
    optimizer = instantiate(optimizer_spec, list(model.parameters()))
    model.train()

    def run(updates: int) -> None:
        for _ in range(updates):
            inputs, targets = next(batches)
            with learner.precision.autocast():
                logits = forward(learner.laid_out(inputs) if model is learner.model else inputs)
            functional.cross_entropy(logits.float().flatten(0, -2), targets.flatten()).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return run


def resident_batches(case: Case, data: TensorExamples, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of endless epochs, gathered on the device."""
    while True:
        order = torch.randperm(EXAMPLES, device=device)
        for index in order.split(case.total_batch_size):
            yield data.inputs[index], data.targets[index]


def loaded_batches(case: Case, data: TensorExamples, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """The same through torch's DataLoader over single examples in host memory."""
    examples = TensorDataset(data.inputs.cpu(), data.targets.cpu())
    loader = DataLoader(
        examples,
        case.total_batch_size,
        shuffle=True,
        num_workers=LOADER_WORKERS,
        persistent_workers=True,
        pin_memory=device.type == "cuda",
    )
    while True:
        for inputs, targets in loader:
            yield inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)


def block(run: Callable[[int], None], updates: int, wait: Callable[[], None]) -> float:
    """Seconds per update of one block."""
    wait()
    began = time.perf_counter()
    run(updates)
    wait()
    return (time.perf_counter() - began) / updates


def spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})"


if __name__ == "__main__":
    main()
