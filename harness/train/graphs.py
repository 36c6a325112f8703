"""An update recorded as CUDA graphs and replayed: a launch or two in place of hundreds.

What a replay may not see: a tensor in another place than when it was recorded, a number of the host, a decision of
Python's. So inputs are copied to fixed places, hyper-parameters are on the device (optimizers.device_step), and state
is restored in place. Graphs refer to their learner's weights; they end with it and are not kept from trial to trial.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from harness.datasets.examples import Batch
from harness.datasets.tree import leaves, map_tree
from harness.plan.errors import UserError, one_line


class Recording(Protocol):
    """What a function once did on the device, to be done again."""

    def replay(self) -> Any:
        """Do it again, in the same places; returns what the function returned."""
        ...


class Shared:
    """What the recordings of one learner share on a GPU: a stream, and the memory of what is in between."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()


class CudaGraph:
    """A recording of `function`, which is called once without anything being computed."""

    def __init__(self, function: Callable[[], Any], shared: Shared | None) -> None:
        assert shared is not None
        self._graph = torch.cuda.CUDAGraph()
        # thread_local: another thread, such as one that reads data, may allocate memory meanwhile.
        with torch.cuda.graph(self._graph, shared.pool, shared.stream, capture_error_mode="thread_local"):
            self._result = function()

    def replay(self) -> Any:
        self._graph.replay()
        return self._result


class Repeated:
    """In place of a recording on devices without graphs: the function is called again."""

    def __init__(self, function: Callable[[], Any], shared: Shared | None) -> None:
        self._function = function

    def replay(self) -> Any:
        return self._function()


Recorder = Callable[[Callable[[], Any], Shared | None], Recording]
Part = Callable[[int, int, bool, Batch], Any]
Key = tuple[
    int, bool, bool, bool
]  # micro-batches of an update; whether this is the first, the last; whether it measures


class Graphs:
    """Recordings of a learner's micro-batches, one for each kind; they share the memory of what is in between."""

    def __init__(self, part: Part, example: Batch, record: Recorder, device: torch.device) -> None:
        """`part(number, micros, measures, batch)`: micro-batch `number` of an update and, if it is the last of
        `micros`, the step. `example`: a batch of the shapes that all have."""
        self._part = part
        self._record = record
        self._inputs = map_tree(torch.clone, tuple(example))
        self._places = [place for _, place in leaves(self._inputs)]
        self._shared = Shared(device) if record is CudaGraph else None
        self._recordings: dict[Key, Recording] = {}

    def record_all(self, micros: int, forget_gradients: Callable[[], None]) -> None:
        """Record every kind now, in the order of an update. `forget_gradients`: sets them to None, as every first
        micro-batch finds them."""
        numbers = sorted({0, min(1, micros - 1), micros - 1})
        for number, measures in [*((number, False) for number in numbers), (micros - 1, True)]:
            if number == 0:
                forget_gradients()
            self._recording(number, micros, measures)
        forget_gradients()

    def run(self, number: int, micros: int, measures: bool, batch: Batch) -> Any:
        """As `part`, by a replay."""
        for place, (name, value) in zip(self._places, leaves(tuple(batch)), strict=True):
            if place.shape != value.shape:
                raise UserError(
                    f"cluster.cuda_graph=true needs micro-batches of one shape, but {name} is {list(place.shape)} in "
                    f"one and {list(value.shape)} in another: use cluster.cuda_graph=false"
                )
            place.copy_(value)
        return self._recording(number, micros, measures).replay()

    def _recording(self, number: int, micros: int, measures: bool) -> Recording:
        is_last = number == micros - 1
        key = micros, number == 0, is_last, is_last and measures
        if key not in self._recordings:
            batch = Batch(*self._inputs)
            self._recordings[key] = self._record(lambda: self._part(number, micros, measures, batch), self._shared)
        return self._recordings[key]


@contextmanager
def recording(model: nn.Module, device: torch.device) -> Iterator[None]:
    """For the block that records: what cannot be recorded becomes a UserError."""
    name, before = type(model).__name__, _places(model)
    is_gpu = device.type == "cuda"
    drawn, stream = _host_draws(is_gpu), torch.cuda.current_stream(device) if is_gpu else None
    try:
        with torch.cuda.device(device) if is_gpu else nullcontext():
            yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if stream is not None:
            torch.cuda.set_stream(stream)  # torch stays on that of a recording that failed
        reason = one_line(error.__context__ or error)
        raise UserError(
            f"cluster.cuda_graph=true: an update of {name} cannot be recorded ({reason}); "
            "reading a value on the host, in the model or the loss, is the usual reason: use cluster.cuda_graph=false"
        ) from error
    if moved := next((place for place, where in _places(model).items() if where != before.get(place)), None):
        raise UserError(
            f"cluster.cuda_graph=true: {name} replaces its {moved} in forward, which a graph cannot repeat: change it "
            "in place (copy_), or use cluster.cuda_graph=false"
        )
    if _host_draws(is_gpu) != drawn:
        raise UserError(
            f"cluster.cuda_graph=true: {name} draws random numbers on the host, which a graph would repeat: draw them "
            "with torch on the device, or use cluster.cuda_graph=false"
        )


def _places(model: nn.Module) -> dict[str, int]:
    return {
        name: value.data_ptr() for kind in (model.named_parameters(), model.named_buffers()) for name, value in kind
    }


def _host_draws(is_gpu: bool) -> tuple[Any, ...]:
    """Equal as long as nobody draws from a generator of the host; torch's is that of the device on a CPU."""
    of_torch = torch.default_generator.get_state().tolist() if is_gpu else None
    return random.getstate(), repr(np.random.get_state(legacy=False)), of_torch


@contextmanager
def side_stream(device: torch.device) -> Iterator[None]:
    """Updates before a recording run on a stream of their own, as torch asks for; does nothing without a GPU."""
    if device.type != "cuda":
        yield
        return
    stream, current = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        yield
    current.wait_stream(stream)


def recorder(device: torch.device) -> Recorder:
    """What records on this device."""
    return CudaGraph if device.type == "cuda" else Repeated
