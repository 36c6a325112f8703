"""A folder of images, one subfolder per class, decoded once into a memory-mapped file and streamed from there."""

import hashlib
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from harness.datasets.decode_image import decode
from harness.datasets.examples import Augment, Splits, stratified_split, tensor_fingerprint
from harness.datasets.images import StreamedImages, channel_sums, normalisation
from harness.datasets.prepare import prepare_once
from harness.plan.errors import UserError

SUFFIXES = (
    *(".apng", ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)
SYSTEM_FILES = ("__macosx", "__pycache__", "desktop.ini", "thumbs.db")  # and every hidden one
DECODER = 2  # changes with what decoding makes of a file, so that nothing decoded otherwise is reused
LISTED = 20  # unreadable files named in an error; all of them are in a file
DECODED_AT_ONCE = 1024  # images per write
PROGRESS_S = 10.0  # seconds between two progress lines


@dataclass(frozen=True)
class Part:
    """The images of train/, val/ or test/, class by class, each sorted by name; labels int64 [n]."""

    name: str
    paths: list[Path]
    labels: np.ndarray
    bytes_on_disk: list[int]
    left_out: Counter[str]  # files that are no images, by suffix


class ImageFolder:
    """Images [n, 3, size, size] of `folder`/train/<class>/**/*.jpg and so on; labels follow the sorted class names.

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
        digest = hashlib.sha256(f"{self.size} {DECODER}".encode())
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
        frames, unreadable = 0, list[str]()
        digests: dict[str, str] = {}
        sums = np.zeros((2, 3), dtype=np.int64)
        for name, part in parts.items():
            digest = hashlib.sha256()
            with (prepared / f"{name}.npy").open("wb") as file:
                shape = (len(part.paths), 3, self.size, self.size)
                np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
                for images, more_frames, failed in _decoded(part, self.size):
                    frames += more_frames
                    unreadable += failed
                    content = images.tobytes()
                    file.write(content)
                    digest.update(content)
                    if name == "train":
                        sums += channel_sums(images)
            digests[name] = digest.hexdigest()
        if unreadable:
            raise UserError(self._unreadable(unreadable, sum(len(part.paths) for part in parts.values())))
        _report([*parts.values()], frames)
        manifest = {"sha256": digests, "train_channel_sums": sums.tolist()}
        (prepared / "manifest.json").write_text(json.dumps(manifest))

    def _unreadable(self, files: list[str], images: int) -> str:
        """One line on every file that could not be decoded; where they are many, they are also listed in a file."""
        named = "; ".join(files[:LISTED])
        if len(files) > LISTED:
            path = Path(self.root).expanduser() / f"unreadable-{self.folder.name}.txt"
            path.write_text("\n".join(files) + "\n")
            named += f"; and {len(files) - LISTED:,} more, all listed in {path}"
        return f"{len(files):,} of {images:,} images cannot be read, repair or remove: {named}"


def _classes(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise UserError(
            f"{folder} does not exist: an image folder needs train/<class>/ and val/<class>/ folders"
            f"{_other_name(folder)}"
        )
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not _is_of_the_system(entry.name))
    if not classes:
        raise UserError(f"{folder} has no class folders: an image folder needs train/<class>/ and val/<class>/ folders")
    return classes


def _part(folder: Path, name: str, classes: list[str]) -> Part:
    paths: list[Path] = []
    labels: list[int] = []
    sizes: list[int] = []
    left_out = Counter(
        f"outside the classes ({entry.name})"
        for entry in os.scandir(folder / name)
        if not entry.is_dir() and not _is_of_the_system(entry.name)
    )
    for label, class_name in enumerate(classes):
        images, others = _files(folder / name / class_name)
        left_out += others
        if not images:
            only = f", only {_suffixes(others)}" if others else ""
            raise UserError(f"{folder / name / class_name} has no images{only}: add some or remove the class")
        paths += [path for path, _ in images]
        sizes += [size for _, size in images]
        labels += [label] * len(images)
    return Part(name, paths, np.array(labels, dtype=np.int64), sizes, left_out)


def _files(folder: Path) -> tuple[list[tuple[Path, int]], Counter[str]]:
    """Images at any depth below `folder` with their sizes, sorted by path; and how many other files, by suffix."""
    images: list[tuple[Path, int]] = []
    others: Counter[str] = Counter()
    seen: set[tuple[int, int]] = set()  # folders: links may form a circle
    pending = [folder]
    while pending:
        here = pending.pop()
        status = here.stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in os.scandir(here):
            path = Path(entry.path)
            if _is_of_the_system(entry.name):
                continue
            if entry.is_dir():
                pending.append(path)
            elif path.suffix.lower() in SUFFIXES:
                images.append((path, entry.stat().st_size if path.exists() else 0))
            else:
                others[path.suffix.lower() or entry.name] += 1
    return sorted(images), others


def _is_of_the_system(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM_FILES


def _other_name(folder: Path) -> str:
    """Where a part has another usual name."""
    usual = {"val": ("valid", "validation", "dev"), "train": ("training",)}.get(folder.name, ())
    there = [entry.name for entry in os.scandir(folder.parent) if entry.is_dir()] if folder.parent.is_dir() else []
    near = [name for name in there if name.lower() in (folder.name, *usual)]
    return f": rename {near[0]}/ to {folder.name}/" if near else ""


def _report(parts: Sequence[Part], frames: int) -> None:
    """What was not read of a folder, with counts."""
    for part in parts:
        if part.left_out:
            line = f"{part.name}/: files left out: {_suffixes(part.left_out)}"
            print(line, file=sys.stderr, flush=True)
    if frames:
        print(f"images with several frames, of which the first was read: {frames:,}", file=sys.stderr, flush=True)


def _suffixes(files: Counter[str]) -> str:
    shown = [f"{number:,} {suffix}" for suffix, number in files.most_common(8)]
    return ", ".join(shown) + (", ..." if len(files) > 8 else "")


def _decoded(part: Part, size: int) -> Iterator[tuple[np.ndarray, int, list[str]]]:
    """The images in order, in pieces uint8 [<= DECODED_AT_ONCE, 3, size, size]; with each piece, how many have further
    frames, and the errors on those that cannot be decoded, which are black. Pillow decodes outside the GIL."""
    started = reported = time.monotonic()
    with ThreadPoolExecutor() as threads:
        for start in range(0, len(part.paths), DECODED_AT_ONCE):
            piece = part.paths[start : start + DECODED_AT_ONCE]
            decoded = list(threads.map(partial(_try_to_decode, size=size), piece))
            failed = [str(image) for image in decoded if isinstance(image, UserError)]
            read = [image for image in decoded if not isinstance(image, UserError)]
            pixels = [image for image, _ in read] if not failed else [np.zeros((3, size, size), np.uint8)] * len(piece)
            yield np.stack(pixels), sum(has_more for _, has_more in read), failed
            done, now = start + len(piece), time.monotonic()
            if now - reported >= PROGRESS_S or done == len(part.paths):
                line = f"{part.name}/: {done:,} of {len(part.paths):,} images decoded in {now - started:.0f} s"
                print(line, file=sys.stderr, flush=True)
                reported = now


def _try_to_decode(path: Path, size: int) -> tuple[np.ndarray, bool] | UserError:
    try:
        return decode(path, size)
    except UserError as error:
        return error
