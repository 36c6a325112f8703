"""A workload's model on a few of its own training examples, run as a trial would run it, one call after another."""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.datasets.examples import Splits
from harness.plan.settings import Settings
from harness.plan.trial import Topology
from harness.train.batch_norm import batch_norms
from harness.train.learner import Learner
from harness.train.still import Still, without_dropout
from harness.train.world import World

SHOWN = 3  # names in one line


@dataclass(frozen=True)
class Run:
    """What one call gave: outputs, the summed loss, and its gradients by parameter (none without a backward pass)."""

    outputs: list[Tensor]
    total: Tensor
    gradients: dict[str, Tensor]
    generator: Tensor  # the state of torch's generator at the end


class Subject:
    """Builds the model of `settings`, and calls it on training examples given by their indices.

    Batch norm is in evaluation mode throughout: what couples examples there is declared (P3), and the trainer's own.
    """

    def __init__(self, settings: Settings, topology: Topology, splits: Splits, tolerance: float) -> None:
        self.settings = settings
        self.topology = topology
        self.splits = splits
        self.tolerance = tolerance  # relative to the largest value
        self.world = World(0, 1, torch.device(topology.device))
        self.repeats = True  # whether the same call twice gives the same
        self.keeps_state = False  # whether a call changes the next one
        self.couples = False  # whether examples of a batch change each other in training
        self.random_modes: set[bool] = set()  # those of training (True) and evaluation that draw random numbers
        self.has_chance = False  # whether the model draws random numbers in training outside its dropout modules
        self._first: dict[str, Tensor] | None = None
        self._learner: Learner | None = None

    def build_anew(self) -> Learner:
        """A learner as a trial builds it."""
        return Learner(self.settings, 0, self.topology, self.world, self.splits)

    def build_without_dropout(self) -> Learner:
        """The same as `build`, with dropout modules off."""
        learner = self.build()
        without_dropout(learner.model)
        return learner

    def build(self) -> Learner:
        """The same, with the same weights at every call even if the model draws them from a source without seed."""
        learner = self.build_anew()
        state = learner.model.state_dict()
        if self._first is None:
            self._first = {name: value.clone() for name, value in state.items()}
        elif any(not torch.equal(value, self._first[name]) for name, value in state.items()):
            learner.model.load_state_dict(self._first)
        return learner

    @property
    def learner(self) -> Learner:
        """A learner for one call after which it may be used again, unless calls change each other."""
        if self._learner is None or self.keeps_state:
            self._learner = self.build()
        return self._learner

    def run(
        self,
        learner: Learner,
        examples: Sequence[int],
        *,
        training: bool = True,
        seed: int = 0,
        outside: int = 0,
        still: bool = False,
        scale: float = 1.0,
    ) -> Run:
        """One call, with a backward pass in training. `outside`: seed of numpy's and Python's generators; `still`:
        without chance; `scale`: of the loss in the backward pass. Gradients start from nothing."""
        model = learner.model
        set_mode(model, training)
        model.zero_grad(set_to_none=True)
        seed_everything(learner, seed, outside)
        with torch.set_grad_enabled(training), Still() if still else nullcontext():
            outputs, total = self.forward(learner, examples)
            if training:
                total.backward(torch.full_like(total, scale))
        given = [value.detach().clone() for value in tensors_in(outputs)]
        slopes = {name: p.grad.detach().clone() for name, p in model.named_parameters() if p.grad is not None}
        return Run(given, total.detach().clone(), slopes, torch.get_rng_state())

    def forward(self, learner: Learner, examples: Sequence[int]) -> tuple[Any, Tensor]:
        """Outputs and summed loss of a call, in whatever mode the model is."""
        index = torch.tensor(list(examples), device=self.world.device)
        batch = learner.loader.draw(index, torch.zeros_like(index))
        outputs = learner.outputs(learner.model, batch)
        return outputs, learner.loss.measure(outputs, batch.targets)[0]

    def differ(self, mine: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
        """Whether two lists of tensors differ by more than rounding."""
        return difference(mine, theirs) > self.tolerance

    def runs_differ(self, one: Run, other: Run) -> bool:
        """Whether two calls differ in outputs, loss or gradients."""
        return (
            one.gradients.keys() != other.gradients.keys()
            or self.differ([*one.outputs, one.total], [*other.outputs, other.total])
            or self.differ([*one.gradients.values()], [other.gradients[name] for name in one.gradients])
        )

    def where(
        self, one: Mapping[str, Any], other: Mapping[str, Any], row: int | None = None, dropout: bool = True
    ) -> str:
        """The module from which on two calls, given as arguments of `run`, differ; `row`: see `place`; `dropout`:
        whether dropout modules are on."""
        traces = []
        for arguments in (one, other):
            learner = self.build() if dropout else self.build_without_dropout()
            with traced(learner.model) as calls:
                self.run(learner, **arguments)
            traces.append(calls)
        return place(traces[0], traces[1], self.tolerance, row)


def set_mode(model: nn.Module, training: bool) -> None:
    model.train(training)
    for layer in batch_norms(model):
        layer.eval()


def seed_everything(learner: Learner, seed: int, outside: int) -> None:
    learner.seed_random(seed)
    np.random.seed(outside)
    random.seed(outside)


def listed(names: Iterable[str]) -> str:
    """The first few of some names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def difference(mine: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """The largest difference between two lists of tensors, relative to the largest value of a list's tensors; infinite
    if shapes differ, or where one is not finite and the other is."""
    if [value.shape for value in mine] != [value.shape for value in theirs]:
        return float("inf")
    worst, largest = 0.0, 1e-30
    for a, b in zip(mine, theirs, strict=True):
        largest = max(largest, _largest(a), _largest(b))
        same = (a == b) | ((a != a) & (b != b))
        if same.all():
            continue
        gap = (a.double() - b.double()).abs() if not a.is_complex() else (a - b).abs()
        gap = gap.masked_fill(same, 0.0).max().item()
        worst = max(worst, gap if gap == gap else float("inf"))
    return worst / largest


def _largest(values: Tensor) -> float:
    sizes = values.abs() if values.is_complex() else values.double().abs()
    return sizes[sizes.isfinite()].max().item() if sizes.isfinite().any() else 0.0


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in nested dicts, lists, tuples and data classes, in their order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for item in value.values() for tensor in tensors_in(item)]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in tensors_in(item)]
    return tensors_in(vars(value)) if is_dataclass(value) else []


@dataclass(frozen=True)
class Call:
    """One call of a module: its dotted name, its class, and the tensors that went in and came out."""

    name: str
    kind: str
    inputs: list[Tensor]
    outputs: list[Tensor]

    def __str__(self) -> str:
        return f"{self.name} ({self.kind})" if self.name else f"the forward of {self.kind} itself"


@contextmanager
def traced(model: nn.Module) -> Iterator[list[Call]]:
    """Collects the calls of modules in the order in which they end, so that a module comes after those it calls."""
    calls: list[Call] = []
    names = {module: name for name, module in model.named_modules()}

    def collect(module: nn.Module, args: Any, kwargs: Any, outputs: Any) -> None:
        sides = [[tensor.detach().clone() for tensor in tensors_in(side)] for side in ([args, kwargs], outputs)]
        calls.append(Call(names[module], type(module).__name__, *sides))

    handles = [module.register_forward_hook(collect, with_kwargs=True) for module in names]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def place(one: Sequence[Call], other: Sequence[Call], tolerance: float, row: int | None = None) -> str:
    """The first call whose inputs agree in both lists while its outputs do not: where a difference comes from.

    `row`: the example of the first list's batch that is alone in the second list's.
    """
    twins = dict(_numbered(other))
    for key, call in _numbered(one):
        if (twin := twins.get(key)) is None:
            continue
        inputs, outputs = _rows(call.inputs, twin.inputs, row), _rows(call.outputs, twin.outputs, row)
        if difference(inputs, twin.inputs) <= tolerance < difference(outputs, twin.outputs):
            return str(call)
    return str(one[-1]) if one else "the model"


def _numbered(calls: Sequence[Call]) -> Iterator[tuple[tuple[str, int], Call]]:
    """Each call with its module's name and the number of the module's earlier calls."""
    seen: dict[str, int] = {}
    for call in calls:
        seen[call.name] = seen.get(call.name, -1) + 1
        yield (call.name, seen[call.name]), call


def _rows(batch: list[Tensor], alone: list[Tensor], row: int | None) -> list[Tensor]:
    if row is None or len(batch) != len(alone):
        return batch
    return [
        a[row : row + 1] if a.dim() and b.dim() and len(b) == 1 < len(a) else a
        for a, b in zip(batch, alone, strict=True)
    ]
