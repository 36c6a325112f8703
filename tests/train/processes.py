"""Child processes for tests: forked from a server that has imported torch once, so that each costs milliseconds."""

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from harness.train.world import World

ANSWER_S = 60.0
# torch._dynamo is what torch imports behind the first optimizer.
PRELOADED = ["torch._dynamo", "sklearn.datasets", "harness.train.worker", "harness.models.bn_cnn", "harness.models.mlp"]


def forkserver() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def start_child(function: Callable[..., Any], *arguments: Any) -> BaseProcess:
    child = forkserver().Process(target=function, args=arguments, daemon=True)
    child.start()
    return child


def on_ranks(size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function(world, *arguments)` returns on each of `size` ranks of a gloo group."""
    context = forkserver()
    with tempfile.TemporaryDirectory() as folder:
        pipes, children = [], []
        for rank in range(size):
            ours, theirs = context.Pipe()
            store = f"file://{Path(folder) / 'store'}"
            child = context.Process(target=_rank, args=(theirs, store, rank, size, function, arguments), daemon=True)
            child.start()
            theirs.close()
            pipes.append(ours)
            children.append(child)
        try:
            answers = [_answer(pipe) for pipe in pipes]
        finally:
            for child in children:
                child.kill()
                child.join()
    return answers


def _answer(pipe: Connection) -> Any:
    assert pipe.poll(ANSWER_S), "a rank did not answer"
    succeeded, value = pipe.recv()
    assert succeeded, value
    return value


def _rank(
    pipe: Connection, store: str, rank: int, size: int, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
        pipe.send((True, function(World(rank, size, torch.device("cpu")), *arguments)))
        pipe.poll(ANSWER_S)  # until killed: a rank that leaves early breaks the others' collectives
    except BaseException:
        pipe.send((False, traceback.format_exc()))
