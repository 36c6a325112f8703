"""What the trainer needs of data: examples addressed by index, in three splits, with a fingerprint."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from harness.datasets.tree import Tree, count_examples, floats_in, leaves, take, to_device
from harness.plan.errors import UserError


class Batch(NamedTuple):
    """Each a Tree: a tensor, or tensors in mappings and tuples, all with the examples as their first axis."""

    inputs: Any
    targets: Any


class Examples(Protocol):
    """A set of examples; `batch` must gather them without Python work per example.

    An attribute `every_target_counts` may say whether all targets have one shape and none is ignored; without it, the
    tensors of an attribute `targets` are looked through (see train.counts).
    """

    def __len__(self) -> int: ...

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        """The same examples on `device`; `batch` then gives floating inputs in `dtype`."""
        ...

    def batch(self, index: Tensor) -> Batch:
        """The examples at `index` (int64 [n], on the device), in that order."""
        ...


@runtime_checkable
class HostExamples(Examples, Protocol):
    """Examples larger than the device's memory: `batch(index)` is `deliver(gather(index on the host), index)`."""

    def gather(self, index: Tensor, pinned: bool) -> Any:
        """What `deliver` needs of the examples at `index` (int64 [n], on the host), on the host; several threads may
        call it at once. `pinned`: in page-locked memory, so that the copy to a GPU is asynchronous."""
        ...

    def deliver(self, gathered: Any, index: Tensor) -> Batch:
        """The batch at `index` (int64 [n], on the device) from what `gather` returned."""
        ...


@runtime_checkable
class DrawnExamples(HostExamples, Protocol):
    """Host examples with random choices of their own in training batches; those of `gather` and `batch`, for
    evaluations and statistics, are always the same."""

    def gather_drawn(self, index: Tensor, key: Tensor, pinned: bool) -> Any:
        """As `gather`, with the random choices of `key` (int64 [n], on the host): a hash of (seed, epoch, example)."""
        ...


@dataclass(frozen=True)
class TensorExamples:
    """Examples that fit on the device as tensors, or as trees of tensors (see datasets.tree)."""

    inputs: Any
    targets: Any

    def __len__(self) -> int:
        return count_examples(self.targets)

    def to(self, device: torch.device, dtype: torch.dtype) -> "TensorExamples":
        return TensorExamples(to_device(floats_in(self.inputs, dtype), device), to_device(self.targets, device))

    def batch(self, index: Tensor) -> Batch:
        return Batch(take(self.inputs, index), take(self.targets, index))


class Augment(Protocol):
    """Random changes of training batches on the device, drawn per example from a counter hash (P2).

    An attribute `every_target_counts = True` promises that it marks no target as ignored and keeps shapes the same
    from batch to batch, which saves a reduction over ranks.
    """

    def __call__(self, batch: Batch, seed: int, epoch: Tensor, example: Tensor, group_size: int) -> Batch:
        """A function of its arguments alone. `epoch`, `example`: int64 [n], the permutation each example comes from
        and its index in the training set. `group_size`: examples of a batch-norm group; member j of group q is at
        j * n / group_size + q.
        """
        ...


@runtime_checkable
class KeyedAugment(Augment, Protocol):
    """An augmentation whose random choices are a hash of one key per example: it may be called for many micro-batches
    at once, and compiled."""

    def keyed(self, batch: Batch, key: Tensor, group_size: int) -> Batch:
        """As the call with `key = counter_key(seed, epoch, example)`: int64 [n]. Every example depends on its own key
        and on its group alone, with the same bits wherever it is in the batch."""
        ...


@dataclass(frozen=True)
class Splits:
    """Training, validation (stops a trial) and test examples (read once); `fingerprint` identifies the exact bytes."""

    train: Examples
    validation: Examples
    test: Examples
    fingerprint: str
    endless: bool = False  # the training stream never repeats: example i of the stream is index i of `train`
    augment: Augment | None = None  # for training batches only
    missing: str | None = None  # what to do so that data which are not loaded can be

    @property
    def is_loaded(self) -> bool:
        """False for a dry run that knows only what the data set declares."""
        return not isinstance(self.train, DeclaredExamples)


def check_splits(splits: object) -> Splits:
    """`splits`, which a data set's `load` returned; UserError unless they are Splits with examples in each of them."""
    if not isinstance(splits, Splits):
        given = "None" if splits is None else f"a {type(splits).__name__}"
        raise UserError(f"load() must return Splits(train, validation, test, fingerprint), not {given}")
    for name in ("train", "validation", "test"):
        examples = getattr(splits, name)
        if missing := [method for method in ("__len__", "to", "batch") if not hasattr(examples, method)]:
            raise UserError(f"its {name} split, a {type(examples).__name__}, has no {missing[0]}: see TensorExamples")
        if not len(examples):
            raise UserError(f"it has no {name} examples: every split needs at least one")
    return splits


class Dataset(Protocol):
    """A data set named in conf by `_target_`; its arguments include the split seed.

    More methods are optional. With `declared_sizes() -> (train, validation, test) | None`, the examples of each split
    as far as they are known without loading, a dry run plans without `load`, unless `is_prepared() -> bool` says that
    nothing is left to download, decode or read through; it prints what `missing() -> str | None` says is left to do.
    """

    def load(self) -> Splits: ...


@dataclass(frozen=True)
class DeclaredExamples:
    """So many examples of a data set that has not been loaded; they cannot be read."""

    size: int

    def __len__(self) -> int:
        return self.size

    def to(self, device: torch.device, dtype: torch.dtype) -> "DeclaredExamples":
        return self

    def batch(self, index: Tensor) -> Batch:
        raise RuntimeError("the data set has not been loaded")


def declared_splits(dataset: object) -> Splits | None:
    """What a data set declares of its splits; None where it declares nothing or can be loaded at once."""
    sizes = dataset.declared_sizes() if isinstance(dataset, DeclaresSizes) else None
    if sizes is None or (isinstance(dataset, Prepares) and dataset.is_prepared()):
        return None
    if len(sizes) != 3 or min(sizes) < 1:
        raise UserError(f"its declared_sizes() must be the examples of train, validation and test, not {sizes}")
    missing = dataset.missing() if isinstance(dataset, SaysWhatIsMissing) else None
    return Splits(*map(DeclaredExamples, sizes), fingerprint="", missing=missing)


@runtime_checkable
class DeclaresSizes(Protocol):
    def declared_sizes(self) -> Sequence[int] | None: ...


@runtime_checkable
class Prepares(Protocol):
    def is_prepared(self) -> bool: ...


@runtime_checkable
class SaysWhatIsMissing(Protocol):
    def missing(self) -> str | None: ...


def stratified_split(labels: np.ndarray, sizes: Sequence[int], seed: int) -> list[np.ndarray]:
    """Disjoint index arrays of the given sizes whose class shares equal those of `labels` within one example.

    `labels`: int [n]; sum(sizes) <= n. The same seed gives the same split on every machine.
    """
    if min(sizes) < 0 or sum(sizes) > len(labels):
        raise ValueError(f"{len(labels)} examples cannot be split into {', '.join(map(str, sizes))}")
    rng = np.random.Generator(np.random.PCG64(seed))
    # Interleave the classes evenly: example j of a class with n_c members is placed at (j + u) / n_c of the line, so
    # every contiguous piece of the line has each class in proportion.
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        position[members] = (np.arange(len(members)) + rng.random()) / len(members)
    line = np.argsort(position, kind="stable")
    bounds = np.cumsum([0, *sizes])
    return [np.sort(line[a:b]) for a, b in pairwise(bounds)]


def tensor_fingerprint(*trees: Tree) -> str:
    """SHA-256 over shapes, dtypes and bytes, and the places of tensors in a tree."""
    digest = hashlib.sha256()
    for place, tensor in (leaf for tree in trees for leaf in leaves(tree)):
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{place}{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]
