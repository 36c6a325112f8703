"""A folder of images, one subfolder per class, decoded once into a memory-mapped file and streamed from there."""

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from harness.datasets.examples import Augment, Splits, stratified_split, tensor_fingerprint
from harness.datasets.images import StreamedImages, channel_sums, normalisation
from harness.datasets.prepare import prepare_once
from harness.plan.errors import UserError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
DECODED_AT_ONCE = 1024  # images per write
PROGRESS_S = 10.0  # seconds between two progress lines


@dataclass(frozen=True)
class Part:
    """The images of train/, val/ or test/, class by class, each sorted by name; labels int64 [n]."""

    name: str
    paths: list[Path]
    labels: np.ndarray
    bytes_on_disk: list[int]


class ImageFolder:
    """Images [n, 3, size, size] of `folder`/train/<class>/*.jpg and so on; labels follow the sorted class names.

    Without a test/ folder, val/ is the test split (read once) and `validation` images are carved from train/,
    stratified, by `split_seed`; with one, val/ is the validation split and `validation` must be 0. Every image is
    resized and centre-cropped to `size` pixels, once, into `root` (3 size^2 bytes each); the result is reused as long
    as file names, file sizes and `size` are the same. Normalised by the statistics of all of train/.
    """

    def __init__(
        self,
        folder: str,
        size: int,
        validation: int = 0,
        split_seed: int = 0,
        augment: Augment | None = None,
        root: str = "~/.cache/harness",
    ) -> None:
        if size < 1 or validation < 0:
            raise UserError(f"dataset.size must be >= 1 and dataset.validation >= 0, not {size} and {validation}")
        self.folder = Path(folder).expanduser()
        self.size = size
        self.validation = validation
        self.split_seed = split_seed
        self.augment = augment
        self.root = root

    def load(self) -> Splits:
        """Decodes on first use on a node (progress on stderr). Every error is a UserError of one line."""
        parts = self._parts()
        prepared = prepare_once(Path(self.root).expanduser(), self._name(parts), partial(self._decode, parts))
        manifest = json.loads((prepared / "manifest.json").read_text())
        pixels = len(parts["train"].paths) * self.size**2
        normalise = normalisation(np.array(manifest["train_channel_sums"]), pixels)
        # Copy-on-write, although nothing writes: torch has no read-only tensors and warns about read-only memory.
        files = {name: torch.from_numpy(np.load(prepared / f"{name}.npy", mmap_mode="c")) for name in parts}
        everything = {name: np.arange(len(part.paths)) for name, part in parts.items()}
        if "test" in parts:
            chosen = [(name, everything[name]) for name in ("train", "val", "test")]
        else:
            labels = parts["train"].labels
            train, validation = stratified_split(
                labels, [len(labels) - self.validation, self.validation], self.split_seed
            )
            chosen = [("train", train), ("train", validation), ("val", everything["val"])]
        splits = [
            StreamedImages(files[name], torch.from_numpy(rows), torch.from_numpy(parts[name].labels[rows]), normalise)
            for name, rows in chosen
        ]
        rows_and_targets = tensor_fingerprint(*(t for split in splits for t in (split.rows, split.targets)))
        named = json.dumps([manifest["sha256"], rows_and_targets])
        fingerprint = hashlib.sha256(named.encode()).hexdigest()[:16]
        return Splits(*splits, fingerprint=fingerprint, augment=self.augment)

    def _parts(self) -> dict[str, Part]:
        """train, val and, if it exists, test, checked against each other and against `validation`."""
        names = [name for name in ("train", "val", "test") if name != "test" or (self.folder / name).is_dir()]
        classes = {name: _classes(self.folder / name) for name in names}
        for name in names[1:]:
            if classes[name] != classes["train"]:
                only = sorted(set(classes[name]) ^ set(classes["train"]))
                raise UserError(
                    f"{self.folder}: train/ and {name}/ must have the same classes, but only one of them has "
                    f"{', '.join(only[:5])}{', ...' if len(only) > 5 else ''}"
                )
        parts = {name: _part(self.folder, name, classes["train"]) for name in names}
        images = len(parts["train"].paths)
        if "test" in parts and self.validation:
            raise UserError(
                f"{self.folder} has a test/ folder, so val/ is the validation split: set dataset.validation=0"
            )
        if "test" not in parts and not 0 < self.validation < images:
            raise UserError(
                f"{self.folder} has no test/ folder, so val/ is the test split: set dataset.validation to the number "
                f"of train/'s {images} images to use for validation, not {self.validation}"
            )
        return parts

    def _name(self, parts: Mapping[str, Part]) -> str:
        """Name of the prepared folder: a hash of all its content depends on, except the bytes in equally long files."""
        digest = hashlib.sha256(f"{self.size}".encode())
        for part in parts.values():
            for path, size in zip(part.paths, part.bytes_on_disk, strict=True):
                digest.update(f"\0{path.relative_to(self.folder)}\0{size}".encode())
        return f"images-{self.folder.name}-{digest.hexdigest()[:16]}"

    def _decode(self, parts: Mapping[str, Part], prepared: Path) -> None:
        """Write <part>.npy, uint8 [n, 3, size, size], and manifest.json with their digests and train/'s sums."""
        needed = sum(len(part.paths) for part in parts.values()) * 3 * self.size**2
        free = shutil.disk_usage(prepared).free
        if free < needed:
            raise UserError(
                f"decoded images need {needed:,} bytes, but {self.root} has {free:,} free: use another dataset.root"
            )
        digests: dict[str, str] = {}
        sums = np.zeros((2, 3), dtype=np.int64)
        for name, part in parts.items():
            digest = hashlib.sha256()
            with (prepared / f"{name}.npy").open("wb") as file:
                shape = (len(part.paths), 3, self.size, self.size)
                np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
                for images in _decoded(part, self.size):
                    content = images.tobytes()
                    file.write(content)
                    digest.update(content)
                    if name == "train":
                        sums += channel_sums(images)
            digests[name] = digest.hexdigest()
        manifest = {"sha256": digests, "train_channel_sums": sums.tolist()}
        (prepared / "manifest.json").write_text(json.dumps(manifest))


def _classes(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: an image folder needs train/<class>/ and val/<class>/ folders")
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise UserError(f"{folder} has no class folders: an image folder needs train/<class>/ and val/<class>/ folders")
    return classes


def _part(folder: Path, name: str, classes: list[str]) -> Part:
    paths: list[Path] = []
    labels: list[int] = []
    sizes: list[int] = []
    for label, class_name in enumerate(classes):
        images = sorted(
            (entry.name, entry.stat().st_size)
            for entry in os.scandir(folder / name / class_name)
            if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".")
        )
        if not images:
            raise UserError(f"{folder / name / class_name} has no images: add some or remove the class")
        paths += [folder / name / class_name / file for file, _ in images]
        sizes += [size for _, size in images]
        labels += [label] * len(images)
    return Part(name, paths, np.array(labels, dtype=np.int64), sizes)


def _decoded(part: Part, size: int) -> Iterator[np.ndarray]:
    """The images in order, in pieces uint8 [<= DECODED_AT_ONCE, 3, size, size]; Pillow decodes outside the GIL."""
    started = reported = time.monotonic()
    with ThreadPoolExecutor() as threads:
        for start in range(0, len(part.paths), DECODED_AT_ONCE):
            piece = part.paths[start : start + DECODED_AT_ONCE]
            yield np.stack(list(threads.map(partial(decode, size=size), piece)))
            done, now = start + len(piece), time.monotonic()
            if now - reported >= PROGRESS_S or done == len(part.paths):
                line = f"{part.name}/: {done:,} of {len(part.paths):,} images decoded in {now - started:.0f} s"
                print(line, file=sys.stderr, flush=True)
                reported = now


def decode(path: Path, size: int) -> np.ndarray:
    """uint8 [3, size, size]: the largest centred square of the image, resized (bilinear, antialiased)."""
    try:
        with Image.open(path) as image:
            square = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BILINEAR)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow's decoders raise
        raise UserError(f"{path} is not a readable image ({error}): repair or remove it") from error
    return np.asarray(square).transpose(2, 0, 1)
