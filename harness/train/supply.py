"""The micro-batches of a trial's updates, on the device: which examples they hold (P2), gathered and augmented."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from harness.datasets.counter_hash import counter_key
from harness.datasets.examples import Batch, KeyedAugment, Splits, TensorExamples
from harness.datasets.images import ImageExamples
from harness.datasets.tree import leaves, map_tree
from harness.plan.batch import BatchPlan
from harness.plan.settings import Settings
from harness.train.loader import Loader
from harness.train.seeds import derive_seed
from harness.train.stream import ExampleStream, cut
from harness.train.world import World

CHUNK_EXAMPLES = 1 << 20  # example indices cut into micro-batches at a time
# Bytes of inputs augmented at a time: on a GPU enough to hide the launches of about forty small kernels, on a CPU what
# stays in its cache.
CHUNK_BYTES = {"cuda": 1 << 26, "cpu": 1 << 20, "meta": 1 << 20}
GATHERED_ALIKE = (TensorExamples, ImageExamples)  # an example is the same in whichever batch it is gathered


class Supply:
    """Batches of one rank. They are made in chunks of micro-batches where an example depends on nothing but itself and
    its batch-norm group; a chunk begins at a fixed place of the stream, so that resuming changes nothing.
    """

    def __init__(self, settings: Settings, seed: int, batch: BatchPlan, world: World, splits: Splits) -> None:
        self.batch, self.world, self.splits = batch, world, splits
        self.group = settings.batch_norm.span_examples if settings.batch_norm.span == "ghost" else 1
        self.loader = Loader(splits.train, world.device, derive_seed(seed, "draw"))
        self.stream = ExampleStream(seed, settings.train_examples, splits.endless)
        self.start = 0 if settings.start is None else settings.start.examples  # where a branch continues
        self._seed = derive_seed(seed, "augment")
        self._keyed: Callable[..., Batch] | None = None
        if isinstance(splits.augment, KeyedAugment):
            self._keyed = splits.augment.keyed
        self._size: int | None = None  # micro-batches of a chunk
        self._chunk: tuple[int, list[Batch]] | None = None  # its number, and its micro-batches
        self._issued: tuple[Tensor, int] | None = None  # of the stream's last update, and its first micro-batch's place
        self._staged: dict[int, Tensor] = {}  # number of a chunk -> its indices and epochs, on the device

    def compile(self) -> None:
        """Augment through torch.compile, where the augmentation is keyed: a seed would be compiled in."""
        if self._keyed is not None:
            self._keyed = torch.compile(self._keyed, dynamic=False)

    def updates(self, start: int, stop: int) -> Iterator[tuple[int, Tensor]]:
        """(step, [2, accumulation, micro] example indices and their epochs) on the device, for start <= step < stop."""
        micros = self.batch.gradient_accumulation_steps
        steps = max(1, CHUNK_EXAMPLES // self.batch.total_batch_size)
        for first in range(start, stop, steps):
            last = min(first + steps, stop)
            mine = self._mine(first, last)
            on_device = self._on_device(mine)
            with self.loader.ahead(mine[:, 0].flatten(0, 1), mine[:, 1].flatten(0, 1)):
                for step in range(first, last):
                    self._stage(step * micros)
                    self._issued = on_device[step - first], step * micros
                    yield step, self._issued[0]

    def _mine(self, first: int, last: int) -> Tensor:
        """Indices and epochs of whole updates on this rank, on the host: [updates, 2, accumulation, micro]."""
        size = self.batch.total_batch_size
        span = self.start + first * size, self.start + last * size
        drawn = [of(*span) for of in (self.stream.positions, self.stream.epochs)]
        return torch.stack([cut(values, self.batch, self.world.rank, self.group) for values in drawn], dim=1)

    def _on_device(self, values: Tensor) -> Tensor:
        """The values on the device, without waiting for it."""
        is_gpu = self.world.device.type == "cuda"
        return values.pin_memory().to(self.world.device, non_blocking=True) if is_gpu else values.to(self.world.device)

    def micro_batch(self, drawn: Tensor, number: int) -> Batch:
        """Micro-batch `number` of an update's examples, as the model receives it; from a chunk for those that `updates`
        gave last."""
        if self._issued is not None and drawn is self._issued[0] and self.chunk_size() > 1:
            return self._from_chunk(self._issued[1] + number)
        indices, epochs = drawn[:, number]
        return self.augmented(self.loader.batch(indices, epochs), indices, epochs)

    def augmented(self, batch: Batch, indices: Tensor, epochs: Tensor) -> Batch:
        """Training examples as the model receives them: augmented where the data set defines an augmentation."""
        if self._keyed is not None:
            return self._keyed(batch, counter_key(self._seed, epochs, indices), self.group)
        if self.splits.augment is None:
            return batch
        return self.splits.augment(batch, self._seed, epochs, indices, self.group)

    def chunk_size(self) -> int:
        """Micro-batches augmented at a time; 1 where examples are not in the device's memory or not independent."""
        if self._size is None:
            self._size = 1
            if self._keyed is not None and type(self.splits.train) in GATHERED_ALIKE:
                one = self.splits.train.batch(torch.zeros(1, dtype=torch.int64, device=self.world.device))
                needed = sum(leaf.nbytes for _, leaf in leaves(one.inputs)) * self.batch.per_device_batch_size
                self._size = max(1, CHUNK_BYTES.get(self.world.device.type, 0) // max(1, needed))
        return self._size

    def prepare(self) -> None:
        """Make the first chunk, as part of the warm-up."""
        if self.chunk_size() > 1:
            self._from_chunk(0)

    def _from_chunk(self, place: int) -> Batch:
        number, within = divmod(place, self.chunk_size())
        if self._chunk is None or self._chunk[0] != number:
            self._chunk = None  # its memory is free for the next one
            self._chunk = number, self._make_chunk(number)
        return self._chunk[1][within]

    def _stage(self, place: int) -> None:
        """Bring the indices that an update needs to the device before it begins: within it nothing is copied."""
        size, micros = self.chunk_size(), self.batch.gradient_accumulation_steps
        if size > 1:
            needed = range(place // size, (place + micros - 1) // size + 1)
            self._staged = {
                n: self._staged[n] if n in self._staged else self._on_device(self._drawn(n)) for n in needed
            }

    def _drawn(self, number: int) -> Tensor:
        """Indices and epochs [2, examples] of a chunk as one batch, where member j of group q is at j * groups + q."""
        size, micros = self.chunk_size(), self.batch.gradient_accumulation_steps
        first = number * size
        mine = self._mine(first // micros, -(-(first + size) // micros)).transpose(0, 1).flatten(1, 2)
        mine = mine[:, first % micros : first % micros + size]
        return mine.unflatten(2, (self.group, -1)).transpose(1, 2).flatten(1).contiguous()

    def _make_chunk(self, number: int) -> list[Batch]:
        """Its micro-batches, gathered and augmented together."""
        count, drawn = self.chunk_size(), self._staged.get(number)
        indices, epochs = self._on_device(self._drawn(number)) if drawn is None else drawn
        batch = self.augmented(self.splits.train.batch(indices), indices, epochs)

        def apart(leaf: Tensor) -> Tensor:
            return leaf.unflatten(0, (self.group, count, -1)).transpose(0, 1).flatten(1, 2)

        trees = map_tree(apart, tuple(batch))
        return [Batch(*map_tree(lambda leaf, at=at: leaf[at], trees)) for at in range(count)]
