"""Any map-style data set of the user's, of torch, torchvision or Hugging Face, behind one adapter."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from harness.datasets.collate import as_tensors, join
from harness.datasets.counter_hash import counter_key
from harness.datasets.examples import Augment, Batch, Examples, Splits, TensorExamples, stratified_split
from harness.datasets.prepare import is_prepared, prepare_once
from harness.datasets.progress import Progress
from harness.datasets.readers import Readers
from harness.datasets.transforms import Transform, Transforms, list_of_callables
from harness.datasets.tree import Tree, floats_in, map_tree, to_device
from harness.plan.errors import UserError

SAMPLED = 32  # examples of each split whose bytes are in the fingerprint
READ_TWICE = 4  # of them: read again in another order, to see whether only their key decides
READ_AT_ONCE = 1024  # examples of a resident data set
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class MapExamples:
    """Examples `rows` of a source, read by processes; a DrawnExamples."""

    readers: Readers
    source: str  # of training batches
    plain_source: str  # where no random choices are wanted: evaluations and statistics
    rows: Tensor  # int64 [n]
    dtype: torch.dtype = torch.float32

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: torch.device, dtype: torch.dtype) -> "MapExamples":
        return replace(self, dtype=dtype)

    def batch(self, index: Tensor) -> Batch:
        return self.deliver(self.gather(index.cpu(), index.is_cuda), index)

    def gather(self, index: Tensor, pinned: bool) -> Tree:
        rows = self.rows.index_select(0, index)
        return self.readers.read(self.plain_source, rows, counter_key(0, rows), pinned)

    def gather_drawn(self, index: Tensor, key: Tensor, pinned: bool) -> Tree:
        return self.readers.read(self.source, self.rows.index_select(0, index), key, pinned)

    def deliver(self, gathered: Tree, index: Tensor) -> Batch:
        pair: Any = floats_in(to_device(gathered, index.device, non_blocking=index.is_cuda), self.dtype)
        inputs, targets = pair
        return Batch(inputs, map_tree(_as_target, targets))


@dataclass(frozen=True)
class Fields:
    """Which parts of an example are inputs and which are targets, and what is done to the inputs."""

    inputs: str | Sequence[str] | None
    targets: str | Sequence[str] | None
    transforms: Sequence[Transform] = ()

    def __call__(self, example: Any) -> tuple[Any, Any]:
        """(inputs, targets): named columns of a dict; of a tuple, the last item is the target."""
        if isinstance(example, Mapping):
            inputs, targets = self._columns(example)
        elif self.inputs is not None or self.targets is not None:
            raise UserError(
                f"it is a {type(example).__name__}, but dataset.inputs and dataset.targets name columns of a dict: "
                "leave them null"
            )
        elif isinstance(example, tuple | list) and len(example) > 1:
            *first, targets = example
            inputs = first[0] if len(first) == 1 else tuple(first)
        else:
            inputs, targets = example[0] if isinstance(example, tuple | list) and example else example, 0
        for transform in self.transforms:
            inputs = transform(inputs)
        return inputs, targets

    def _columns(self, example: Mapping[str, Any]) -> tuple[Any, Any]:
        targets = () if self.targets is None else self.targets
        named = [targets] if isinstance(targets, str) else [*targets]
        chosen = [key for key in example if key not in named] if self.inputs is None else self.inputs
        for key in [*named, *([chosen] if isinstance(chosen, str) else chosen)]:
            if key not in example:
                raise UserError(f"it has no column {key!r}: choose one of {', '.join(map(str, example))}")
        taken = example[chosen] if isinstance(chosen, str) else {key: example[key] for key in chosen}
        if not named:
            return taken, 0  # the model computes its loss from the inputs
        return taken, example[targets] if isinstance(targets, str) else {key: example[key] for key in named}


class MapStyle:
    """`train`, `validation` and `test`: data sets with len() and [index], each a `_target_`; or, for the last two, a
    number of examples carved from `train` (stratified where it has integer `targets`, by `split_seed`).

    An example is (input, target), (input, input, ..., target) or a dict, of which `targets` names the target's columns
    and `inputs` those of the inputs (null: all others). A name alone gives that column, a list a dict of columns.
    `transform` (one callable or several) changes the inputs of training batches, `evaluation_transform` those of
    evaluations and statistics. Random choices of either, and of the data set itself, must be drawn from the global
    generators of torch, numpy or Python: they are seeded for each example by (seed, epoch, example), so its bits are
    the same at any number of `worker_processes` (of each rank), on any topology and after a resume.

    `padding` names columns whose examples differ in length (`inputs` or `targets` where there are no columns) and the
    value that fills each up to the longest of its micro-batch: 0 for a mask, -100 for targets that do not count.

    `resident`: read everything once and keep it on the device; for data without random choices that fit there.
    `sizes`: examples of each split where they are known, so that a dry run need not load anything.
    """

    lazy_arguments = SPLITS  # they arrive as functions that build them: building may download

    def __init__(
        self,
        train: Any,
        validation: Any,
        test: Any,
        inputs: str | Sequence[str] | None = None,
        targets: str | Sequence[str] | None = None,
        transform: Transforms | None = None,
        evaluation_transform: Transforms | None = None,
        padding: Mapping[str, float] | None = None,
        augment: Augment | None = None,
        split_seed: int = 0,
        resident: bool = False,
        sizes: Sequence[int] | None = None,
        worker_processes: int = 2,
        root: str = "~/.cache/harness",
    ) -> None:
        if worker_processes < 1:
            raise UserError(f"dataset.worker_processes must be >= 1, not {worker_processes}")
        if isinstance(train, int):
            raise UserError(f"dataset.train must name a data set by _target_, not {train}")
        for name, value in (("validation", validation), ("test", test)):
            if isinstance(value, int) and value < 1:
                raise UserError(f"dataset.{name} must be a data set or a number of examples >= 1, not {value}")
        if sizes is not None and (len(sizes) != len(SPLITS) or min(sizes) < 1):
            raise UserError(
                f"dataset.sizes must be the examples of train, validation and test, each >= 1, not {list(sizes)}"
            )
        self.given = {"train": train, "validation": validation, "test": test}
        self.fields = Fields(inputs, targets)
        self.transform = list_of_callables("dataset.transform", transform)
        self.evaluation_transform = list_of_callables("dataset.evaluation_transform", evaluation_transform)
        whole = {name: place for name, place in ((inputs, "inputs"), (targets, "targets")) if isinstance(name, str)}
        self.padding = {whole.get(name, name): value for name, value in (padding or {}).items()}
        self.augment = augment
        self.split_seed = split_seed
        self.resident = resident
        self.sizes = None if sizes is None else tuple(sizes)
        self.worker_processes = worker_processes
        self.root = Path(root).expanduser()

    def declared_sizes(self) -> tuple[int, ...] | None:
        return self.sizes

    def is_prepared(self) -> bool:
        """Whether the data sets were built on this node before, so that they need no download."""
        return is_prepared(self.root, self._name())

    def load(self) -> Splits:
        """The first load on a node builds the data sets alone, because that may download them."""
        built: dict[str, Any] = {}

        def build(folder: Path) -> None:
            built.update(self._build())
            (folder / "built").touch()

        if any(hasattr(value, "spec") for value in self.given.values()):
            prepare_once(self.root, self._name(), build)
        rows = self._rows(built := built or self._build())
        train, evaluation = (replace(self.fields, transforms=t) for t in (self.transform, self.evaluation_transform))
        sources = {name: partial(_example, dataset, evaluation) for name, dataset in built.items()}
        readers = Readers(
            {f"dataset.{name}": source for name, source in sources.items()}
            | {"dataset.train in training": partial(_example, built["train"], train)},
            self.worker_processes,
            self.padding,
        )
        splits = {}
        for name in SPLITS:
            source = f"dataset.{name if name in built else 'train'}"
            drawn = f"{source} in training" if name == "train" else source
            splits[name] = MapExamples(readers, drawn, source, torch.from_numpy(rows[name]))
        fingerprint = _fingerprint(splits)
        parts: Mapping[str, Examples] = splits
        if self.resident:
            parts = {name: _resident(name, examples) for name, examples in splits.items()}
        readers.close()  # a process that only plans needs none; the first batch starts them again
        return Splits(*parts.values(), fingerprint=fingerprint, augment=self.augment)

    def _name(self) -> str:
        specs = {name: getattr(value, "spec", value) for name, value in self.given.items()}
        digest = hashlib.sha256(json.dumps(specs, sort_keys=True, default=str).encode()).hexdigest()
        return f"built-{digest[:16]}"

    def _build(self) -> dict[str, Any]:
        """The data sets that were named, checked."""
        built = {}
        for name, value in self.given.items():
            if isinstance(value, int):
                continue
            dataset = value() if callable(value) and not hasattr(value, "__getitem__") else value
            _check_map_style(name, dataset)
            built[name] = dataset
        return built

    def _rows(self, built: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Indices of each split in its data set, int64 [n]."""
        rows = {name: np.arange(len(dataset)) for name, dataset in built.items()}
        carved = {name: value for name, value in self.given.items() if isinstance(value, int)}
        held, wanted = len(rows["train"]), sum(carved.values())
        if wanted >= held:
            taken = " and ".join(f"{number:,} for {name}" for name, number in carved.items())
            raise UserError(f"dataset.train has {held:,} examples, too few to take {taken} and leave one for training")
        if carved:
            labels = _labels(built["train"], self.fields.targets)
            labels = np.zeros(held, dtype=np.int64) if labels is None else labels
            parts = stratified_split(labels, [held - wanted, *carved.values()], self.split_seed)
            rows |= dict(zip(["train", *carved], parts, strict=True))
        found = tuple(len(rows[name]) for name in SPLITS)
        if self.sizes is not None and found != self.sizes:
            raise UserError(f"dataset.sizes is {list(self.sizes)}, but the splits have {list(found)} examples")
        return rows


def _example(dataset: Any, fields: Fields, index: int) -> tuple[Any, Any]:
    inputs, targets = fields(dataset[index])
    return as_tensors(inputs, "inputs"), as_tensors(targets, "targets")


def _as_target(leaf: Tensor) -> Tensor:
    """Losses take integers as int64 only."""
    return leaf if leaf.is_floating_point() or leaf.dtype == torch.bool else leaf.long()


def _check_map_style(name: str, dataset: Any) -> None:
    """Raises UserError, with the alternative, for what cannot be read by index."""
    kind = f"dataset.{name}, a {type(dataset).__module__}.{type(dataset).__qualname__},"
    if isinstance(dataset, Mapping):
        raise UserError(f"{kind} has several splits ({', '.join(map(str, dataset))}): choose one, e.g. by split=train")
    is_torchs_stream = issubclass(type(dataset), IterableDataset)
    has_random_access = hasattr(dataset, "__getitem__") and not is_torchs_stream
    if not has_random_access and hasattr(dataset, "__iter__"):
        raise UserError(
            f"{kind} can only be iterated: without random access its order could not be the same at every total batch "
            "size. Use a map-style data set (len() and [index]), or write its tokens into files for "
            "dataset=token_shards"
        )
    if not has_random_access or not hasattr(dataset, "__len__"):
        missing = "[index] (__getitem__)" if not has_random_access else "len() (__len__)"
        raise UserError(f"{kind} has no {missing}: a map-style data set has both")
    try:
        size = len(dataset)
    except NotImplementedError as error:
        raise UserError(f"{kind} has no len() (__len__): a map-style data set has it") from error
    if not size:
        raise UserError(f"{kind} is empty")


def _labels(dataset: Any, column: Any) -> np.ndarray | None:
    """The class of every example without reading any, int64 [n]; None where the data set does not tell them."""
    if hasattr(dataset, "indices") and hasattr(dataset, "dataset"):  # torch.utils.data.Subset
        labels = _labels(dataset.dataset, column)
        return None if labels is None else labels[np.asarray(dataset.indices)]
    if isinstance(column, str) and column in getattr(dataset, "column_names", ()):  # a Hugging Face data set
        named = dataset[column]
    else:
        named = getattr(dataset, "targets", getattr(dataset, "labels", None))
    try:
        labels = np.asarray(named)
    except (TypeError, ValueError):
        return None
    return labels.astype(np.int64) if labels.shape == (len(dataset),) and labels.dtype.kind in "iub" else None


def _fingerprint(splits: Mapping[str, MapExamples]) -> str:
    """Of the number of examples of each split, which ones they are, and the bytes of SAMPLED of them; a change of other
    examples is not noticed. UserError where an example's bits depend on more than its key."""
    sha = hashlib.sha256()
    for name, examples in splits.items():
        sha.update(f"{name} {len(examples)}".encode() + examples.rows.numpy().tobytes())
        chosen = np.unique(np.linspace(0, len(examples) - 1, SAMPLED).round().astype(np.int64))
        rows = examples.rows[torch.from_numpy(chosen)]
        keys = counter_key(0, rows)
        digests = examples.readers.digests(examples.source, rows, keys)
        again = examples.readers.digests(examples.source, rows[:READ_TWICE].flip(0), keys[:READ_TWICE].flip(0))
        if again[::-1] != digests[:READ_TWICE]:
            raise UserError(
                f"dataset.{name} gives other values when an example is read again: draw random numbers from the "
                "global generators of torch, numpy or Python, which are seeded for each example, not from a generator "
                "of its own"
            )
        sha.update("".join(digests).encode())
        examples.readers.read(examples.source, rows, keys)  # they must fit in one batch
    return sha.hexdigest()[:16]


def _resident(name: str, examples: MapExamples) -> TensorExamples:
    """All examples as tensors; UserError where they are drawn."""
    rows = examples.rows
    first = rows[:READ_TWICE]
    digests = [examples.readers.digests(examples.source, first, counter_key(draw, first)) for draw in (0, 1)]
    if digests[0] != digests[1]:
        raise UserError(f"dataset.resident=true would keep one draw of dataset.{name}: use it for data without any")
    progress = Progress(f"dataset.{name}", len(rows), "examples read")
    parts = []
    for some in rows.split(READ_AT_ONCE):
        parts.append(examples.readers.read(examples.source, some, counter_key(0, some)))
        progress.advance(len(some))
    pair: Any = join(parts, examples.readers.padding)
    inputs, targets = pair
    return TensorExamples(inputs, map_tree(_as_target, floats_in(targets, torch.float32)))
