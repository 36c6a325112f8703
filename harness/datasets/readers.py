"""Processes that read the examples of a user's data set, each with random numbers of its own that only its key sets.

The data set itself is read in these processes alone: they inherit it by fork, so nothing of it is copied or pickled,
and a file that it opens at the first read is open in one process only.
"""

import multiprocessing
import os
import random
import signal
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.datasets.collate import Padding, as_tensors, collate, digest, join
from harness.datasets.tree import Tree
from harness.plan.errors import UserError, one_line

LOOK_EVERY_S = 1.0  # how soon a reader notices that the process it reads for has been killed

Source = Callable[[int], Any]  # the example at an index


@dataclass(frozen=True)
class Failure:
    """What went wrong in a reader, in one line."""

    message: str


class Readers:
    """`processes` readers of the examples of `sources`, started at the first read."""

    def __init__(self, sources: Mapping[str, Source], processes: int, padding: Padding | None = None) -> None:
        self.sources = sources
        self.padding = padding
        self.processes = processes
        self._pool: ProcessPoolExecutor | None = None
        self._starting = threading.Lock()
        self._end: Callable[[], Any] = bool  # what ends the processes: called by itself when this object goes

    def read(self, source: str, index: Tensor, keys: Tensor, pinned: bool = False) -> Tree:
        """The examples at `index` as one batch, read with the random numbers of `keys` (int64 [n], both on the host).
        Several threads may call it at once. UserError for what is wrong with the data set."""
        return join(self._spread(partial(_read, self.padding), source, index, keys), self.padding, pinned)

    def digests(self, source: str, index: Tensor, keys: Tensor) -> list[str]:
        """A digest of each of these examples."""
        return [one for part in self._spread(_digests, source, index, keys) for one in part]

    def close(self) -> None:
        """End the processes; the next read starts new ones."""
        self._pool = None
        self._end()

    def _spread(self, work: Callable[..., Any], source: str, index: Tensor, keys: Tensor) -> list[Any]:
        """`work` on contiguous parts of `index`, one a process."""
        size = -(-len(index) // self.processes)
        try:
            pool = self._started()
            futures: list[Future[Any]] = [
                pool.submit(work, source, some.tolist(), their_keys.tolist())
                for some, their_keys in zip(index.split(size), keys.split(size), strict=True)
            ]
            results = [future.result() for future in futures]
        except BrokenProcessPool as error:
            self.close()
            raise RuntimeError(
                "a process that reads the data set was killed: it needs less memory with a smaller "
                "dataset.worker_processes, and a larger /dev/shm where that is small (docker run --shm-size)"
            ) from error
        if failures := [result for result in results if isinstance(result, Failure)]:
            raise UserError(failures[0].message)
        return results

    def _started(self) -> ProcessPoolExecutor:
        with self._starting:
            if self._pool is None:
                self._pool = ProcessPoolExecutor(
                    self.processes,
                    multiprocessing.get_context("fork"),
                    initializer=_become_reader,
                    initargs=(self.sources, os.getpid()),
                )
                self._end = weakref.finalize(self, self._pool.shutdown, cancel_futures=True)
                with warnings.catch_warnings(), _as_no_daemon():
                    warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12: this process has threads
                    self._pool.submit(int).result()  # starts all of them
            return self._pool


@contextmanager
def _as_no_daemon() -> Iterator[None]:
    """Lets a daemonic process, such as a rank, start processes: multiprocessing forbids it because they might outlive
    it, but readers end with the process they read for."""
    config: dict[str, Any] = multiprocessing.current_process()._config  # pyright: ignore[reportAttributeAccessIssue]
    daemon = config.pop("daemon", None)
    try:
        yield
    finally:
        if daemon is not None:
            config["daemon"] = daemon


_SOURCES: dict[str, Source] = {}  # of this reader


def _become_reader(sources: Mapping[str, Source], parent: int) -> None:
    """Runs once in every reader: what is the parent's alone is given up."""
    _SOURCES.update(sources)
    for interruption in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(interruption, signal.SIG_IGN)  # the parent decides when to stop
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_EVERY_S)
    os._exit(1)


def _read(padding: Padding | None, source: str, index: list[int], keys: list[int]) -> Tree | Failure:
    examples = _examples(source, index, keys)
    if isinstance(examples, Failure):
        return examples
    try:
        return collate(examples, padding)
    except UserError as error:
        return Failure(str(error))


def _digests(source: str, index: list[int], keys: list[int]) -> list[str] | Failure:
    examples = _examples(source, index, keys)
    return examples if isinstance(examples, Failure) else [digest(example) for example in examples]


def _examples(source: str, index: list[int], keys: list[int]) -> list[Tree] | Failure:
    examples = []
    for i, key in zip(index, keys, strict=True):
        try:
            seed_everything(key)
            examples.append(as_tensors(_SOURCES[source](i)))
        except UserError as error:
            return Failure(f"example {i} of {source}: {error}")
        except Exception as error:  # a user's class may raise anything, also what cannot be sent to another process
            place = traceback.extract_tb(error.__traceback__)[-1]
            return Failure(f"example {i} of {source}: {place.filename}, line {place.lineno}: {one_line(error)}")
    return examples


def seed_everything(key: int) -> None:
    """Seed the global generators of torch, numpy and Python by 64 bits."""
    random.seed(key)
    np.random.seed([key & 0xFFFFFFFF, (key >> 32) & 0xFFFFFFFF])
    torch.default_generator.manual_seed(key)
