"""A folder of images, one subfolder per class: decoded once into a memory-mapped file, or each time they are read."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.datasets.decode_folder import DECODER, decode_folder, measure_folder
from harness.datasets.decode_image import decode
from harness.datasets.examples import Augment, Batch, Splits, tensor_fingerprint
from harness.datasets.image_files import Part, list_images, split_rows
from harness.datasets.images import Normalisation, StreamedImages, normalisation
from harness.datasets.prepare import is_prepared, prepare_once
from harness.datasets.readers import Readers
from harness.plan.errors import UserError

SAMPLED = 256  # images of each part whose pixels are in the fingerprint of a folder that is not decoded once


class ImageFolder:
    """Images [n, 3, size, size] of `folder`/train/<class>/**/*.jpg and so on; labels follow the sorted class names.

    Without a test/ folder, val/ is the test split (read once) and `validation` images are carved from train/,
    stratified, by `split_seed`; with one, val/ is the validation split and `validation` must be 0. Every image is
    resized and centre-cropped to `size` pixels, once, into `root` (3 size^2 bytes each); the result is reused as long
    as file names, file sizes and `size` are the same. Normalised by the statistics of all of train/. `sizes`, of
    training, validation and test, are assumed by a dry run as long as there is no folder.
    """

    def __init__(
        self,
        folder: str,
        size: int,
        validation: int = 0,
        split_seed: int = 0,
        augment: Augment | None = None,
        root: str = "~/.cache/harness",
        sizes: Sequence[int] | None = None,
    ) -> None:
        if size < 1 or validation < 0:
            raise UserError(f"dataset.size must be >= 1 and dataset.validation >= 0, not {size} and {validation}")
        self.folder = Path(folder).expanduser()
        self.size = size
        self.validation = validation
        self.split_seed = split_seed
        self.augment = augment
        self.root = Path(root).expanduser()
        self.sizes = sizes

    def missing(self) -> str | None:
        """Where to put the images; None if there is a folder, or if `sizes` does not stand in for it."""
        if self.sizes is None or self.folder.is_dir():
            return None
        return (
            f"put the images into {self.folder}/train/<class>/ and {self.folder}/val/<class>/, or give "
            "dataset.folder=FOLDER"
        )

    def declared_sizes(self) -> Sequence[int]:
        """Counted, if there is a folder: it is listed, but no image is read."""
        if self.missing() and self.sizes is not None:
            return self.sizes
        return tuple(len(rows) for _, rows in split_rows(self._parts(), self.validation, self.split_seed))

    def is_prepared(self) -> bool:
        """Whether the images have been decoded on this node."""
        return not self.missing() and is_prepared(self.root, self._name("images", self._parts()))

    def load(self) -> Splits:
        """Decodes on first use on a node (progress on stderr). Every error is a UserError of one line."""
        parts = self._parts()
        prepared = self._prepare("images", parts, partial(self._decode, parts))
        manifest = json.loads((prepared / "manifest.json").read_text())
        normalise = self._normalisation(manifest, parts)
        # Copy-on-write, although nothing writes: torch has no read-only tensors and warns about read-only memory.
        files = {name: torch.from_numpy(np.load(prepared / f"{name}.npy", mmap_mode="c")) for name in parts}
        splits = [
            StreamedImages(files[name], torch.from_numpy(rows), torch.from_numpy(parts[name].labels[rows]), normalise)
            for name, rows in split_rows(parts, self.validation, self.split_seed)
        ]
        return self._splits(splits, manifest["sha256"])

    def _parts(self) -> dict[str, Part]:
        return list_images(self.folder, self.validation)

    def _prepare(self, kind: str, parts: Mapping[str, Part], build: Any) -> Path:
        """Unfinished work is kept by the folder's path, so that it serves what the folder holds after a repair too."""
        where = hashlib.sha256(str(self.folder.resolve()).encode()).hexdigest()[:8]
        unfinished = f"{kind}-{self.folder.name}-{where}-{self.size}-{DECODER}"
        return prepare_once(self.root, self._name(kind, parts), build, unfinished)

    def _normalisation(self, manifest: Mapping[str, Any], parts: Mapping[str, Part]) -> Normalisation:
        pixels = len(parts["train"].paths) * self.size**2
        return normalisation(np.array(manifest["train_channel_sums"]), pixels)

    def _splits(self, splits: Sequence[Any], content: Any) -> Splits:
        """With a fingerprint of `content`, of which images are in which split, and of their labels."""
        rows_and_targets = tensor_fingerprint(*(t for split in splits for t in (split.rows, split.targets)))
        named = json.dumps([content, rows_and_targets])
        fingerprint = hashlib.sha256(named.encode()).hexdigest()[:16]
        return Splits(*splits, fingerprint=fingerprint, augment=self.augment)

    def _name(self, kind: str, parts: Mapping[str, Part]) -> str:
        """Name of the prepared folder: a hash of all its content depends on, except the bytes in equally long files."""
        digest = hashlib.sha256(f"{self.size} {DECODER}".encode())
        for part in parts.values():
            for path, size in zip(part.paths, part.bytes_on_disk, strict=True):
                digest.update(f"\0{path.relative_to(self.folder)}\0{size}".encode())
        return f"{kind}-{self.folder.name}-{digest.hexdigest()[:16]}"

    def _decode(self, parts: Mapping[str, Part], prepared: Path) -> None:
        needed = sum(len(part.paths) for part in parts.values()) * 3 * self.size**2
        held = sum(file.stat().st_blocks * 512 for file in prepared.glob("*.npy"))  # of an interrupted run
        free = shutil.disk_usage(prepared).free
        if held + free < needed:
            raise UserError(
                f"decoded images need {needed:,} bytes, but {self.root} has {held + free:,} free: use another "
                "dataset.root, or dataset=lazy_image_folder"
            )
        decode_folder(self.folder, parts, self.size, prepared)


class LazyImageFolder(ImageFolder):
    """The same images with the same bits, decoded whenever they are read, by `worker_processes` on each rank: for
    folders whose decoded images do not fit on a disk.

    `mean` and `std` of each channel, for pixels from 0 to 1, spare the one pass over train/ that measures them; an
    image that cannot be read is then noticed only when it is needed. The fingerprint covers the names and sizes of all
    files and the pixels of 256 images of each part.
    """

    def __init__(
        self,
        folder: str,
        size: int,
        validation: int = 0,
        split_seed: int = 0,
        augment: Augment | None = None,
        root: str = "~/.cache/harness",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        worker_processes: int = 2,
        sizes: Sequence[int] | None = None,
    ) -> None:
        super().__init__(folder, size, validation, split_seed, augment, root, sizes)
        given = [values for values in (mean, std) if values is not None]
        if len(given) == 1 or any(len(values) != 3 for values in given) or min(std or [1]) <= 0:
            raise UserError(
                f"dataset.mean and dataset.std must be three numbers each, std > 0, or both null, not {mean} and {std}"
            )
        if worker_processes < 1:
            raise UserError(f"dataset.worker_processes must be >= 1, not {worker_processes}")
        self.given = None if mean is None or std is None else torch.tensor([list(mean), list(std)], dtype=torch.float64)
        self.worker_processes = worker_processes

    def is_prepared(self) -> bool:
        """Whether the statistics are known on this node."""
        if self.missing():
            return False
        return self.given is not None or is_prepared(self.root, self._name("statistics", self._train_only()))

    def load(self) -> Splits:
        parts = self._parts()
        if self.given is not None:
            normalise = Normalisation(*(self.given * 255).view(2, 3, 1, 1))
        else:
            train = self._train_only()
            build = partial(measure_folder, self.folder, parts["train"], self.size)
            prepared = self._prepare("statistics", train, build)
            normalise = self._normalisation(json.loads((prepared / "manifest.json").read_text()), parts)
        readers = Readers(
            {f"{name}/": partial(_decoded, part.paths, self.size) for name, part in parts.items()},
            self.worker_processes,
        )
        content = {name: [len(part.paths), _sample(readers, part)] for name, part in parts.items()}
        readers.close()  # a process that only plans needs none; the first batch starts them again
        splits = [
            LazyImages(
                readers, f"{name}/", torch.from_numpy(rows), torch.from_numpy(parts[name].labels[rows]), normalise
            )
            for name, rows in split_rows(parts, self.validation, self.split_seed)
        ]
        return self._splits(splits, [self._name("files", parts), content])

    def _train_only(self) -> dict[str, Part]:
        return {"train": self._parts()["train"]}


@dataclass(frozen=True)
class LazyImages:
    """Images that are decoded when they are gathered; as StreamedImages otherwise."""

    readers: Readers
    source: str
    rows: Tensor
    targets: Tensor
    normalise: Normalisation

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: torch.device, dtype: torch.dtype) -> "LazyImages":
        return replace(self, targets=self.targets.to(device), normalise=self.normalise.to(device, dtype))

    def batch(self, index: Tensor) -> Batch:
        return self.deliver(self.gather(index.cpu(), index.is_cuda), index)

    def gather(self, index: Tensor, pinned: bool) -> Any:
        rows = self.rows.index_select(0, index)
        return self.readers.read(self.source, rows, rows, pinned)  # decoding draws nothing, so any key will do

    def deliver(self, gathered: Tensor, index: Tensor) -> Batch:
        inputs = self.normalise(gathered.to(index.device, non_blocking=True))
        return Batch(inputs, self.targets.index_select(0, index))


def _decoded(paths: Sequence[Path], size: int, row: int) -> np.ndarray:
    return decode(paths[row], size)[0]


def _sample(readers: Readers, part: Part) -> list[str]:
    """Digests of the pixels of SAMPLED images, evenly spread."""
    rows = torch.from_numpy(np.unique(np.linspace(0, len(part.paths) - 1, SAMPLED).round().astype(np.int64)))
    return readers.digests(f"{part.name}/", rows, rows)
