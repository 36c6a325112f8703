"""Batches of examples that stay on the host, gathered by their own threads while the device computes."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from harness.datasets.counter_hash import counter_key
from harness.datasets.examples import Batch, DrawnExamples, Examples, HostExamples

AHEAD = 4  # micro-batches gathered before they are asked for, at least
THREADS = 2  # one copies while the other waits for the disk


class Loader:
    """Gives the same batches as `examples`; examples on the host are gathered in advance inside `ahead`.

    It counts the seconds for which training waited for data. On a GPU that is an upper bound: work queued on the device
    continues meanwhile.
    """

    def __init__(self, examples: Examples, device: torch.device, seed: int = 0) -> None:
        """`seed`: of random choices that the examples themselves make, see DrawnExamples."""
        self.examples = examples
        self.seed = seed
        self.host = examples if isinstance(examples, HostExamples) else None
        self._waited_s = 0.0
        self._pinned = device.type == "cuda"
        threads = gathering_threads(device, torch.get_num_threads())
        self._most_ahead = max(AHEAD, threads)
        self._threads: ThreadPoolExecutor | None = None
        if self.host is not None:
            self._threads = ThreadPoolExecutor(threads, "loader", _one_thread if threads > THREADS else None)
        self._drawn = examples if isinstance(examples, DrawnExamples) else None
        self._upcoming: Iterator[tuple[Tensor, Tensor]] = iter(())
        self._gathered: deque[Future[Any]] = deque()

    @property
    def streams(self) -> bool:
        """Whether the examples are on the host, so that training may have to wait for them."""
        return self.host is not None

    @contextmanager
    def ahead(self, indices: Iterable[Tensor], epochs: Iterable[Tensor]) -> Iterator[None]:
        """Inside this context `batch` must be called for each of `indices` and `epochs` (int64 [n], on the host), in
        this order."""
        self._upcoming = iter(zip(indices, epochs, strict=True))
        self._top_up()
        try:
            yield
        finally:
            self._upcoming = iter(())
            for future in self._gathered:
                future.cancel()
            self._gathered.clear()

    def batch(self, index: Tensor, epoch: Tensor) -> Batch:
        """The training examples at `index`, each of its `epoch` (both int64 [n], on the device)."""
        if self.host is None:
            return self.examples.batch(index)
        began = time.perf_counter()
        gathered = self._gathered.popleft().result() if self._gathered else self._gather(index.cpu(), epoch.cpu())
        self._waited_s += time.perf_counter() - began
        self._top_up()
        return self.host.deliver(gathered, index)

    def draw(self, index: Tensor, epoch: Tensor) -> Batch:
        """The same examples outside the stream of training; waiting for them is not counted."""
        if self._drawn is None:
            return self.examples.batch(index)
        return self._drawn.deliver(self._gather(index.cpu(), epoch.cpu()), index)

    def read_waited_s(self) -> float:
        """Seconds waited since the last reading."""
        waited_s, self._waited_s = self._waited_s, 0.0
        return waited_s

    def _top_up(self) -> None:
        if self._threads is None:
            return
        while len(self._gathered) < self._most_ahead and (drawn := next(self._upcoming, None)) is not None:
            self._gathered.append(self._threads.submit(self._gather, *drawn))

    def _gather(self, index: Tensor, epoch: Tensor) -> Any:
        if self._drawn is not None:
            return self._drawn.gather_drawn(index, counter_key(self.seed, epoch, index), self._pinned)
        assert self.host is not None
        return self.host.gather(index, self._pinned)


def gathering_threads(device: torch.device, cpus: int) -> int:
    """As many as the worker has CPUs, where they have nothing else to do because a GPU computes."""
    return max(THREADS, cpus) if device.type == "cuda" else THREADS


def _one_thread() -> None:
    """Begins a thread of a loader that has one for every CPU: each then gathers on one CPU, not on all of them."""
    torch.set_num_threads(1)  # of this thread; other threads that run already keep theirs
