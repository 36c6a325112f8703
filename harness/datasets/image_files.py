"""Which images a folder holds: train/<class>/**, val/<class>/** and, where there is one, test/<class>/**."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.datasets.examples import stratified_split
from harness.datasets.progress import announce
from harness.plan.errors import UserError

SUFFIXES = (
    *(".apng", ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)
SYSTEM_FILES = ("__macosx", "__pycache__", "desktop.ini", "thumbs.db")  # and every hidden one


@dataclass(frozen=True)
class Part:
    """The images of train/, val/ or test/, class by class, each sorted by name; labels int64 [n]."""

    name: str
    paths: list[Path]
    labels: np.ndarray
    bytes_on_disk: list[int]
    left_out: Counter[str]  # files that are no images, by suffix


def list_images(folder: Path, validation: int) -> dict[str, Part]:
    """train, val and, if it exists, test, checked against each other and against `validation`."""
    names = [name for name in ("train", "val", "test") if name != "test" or (folder / name).is_dir()]
    classes = {name: _classes(folder / name) for name in names}
    for name in names[1:]:
        if classes[name] != classes["train"]:
            only = sorted(set(classes[name]) ^ set(classes["train"]))
            raise UserError(
                f"{folder}: train/ and {name}/ must have the same classes, but only one of them has "
                f"{', '.join(only[:5])}{', ...' if len(only) > 5 else ''}"
            )
    parts = {name: _part(folder, name, classes["train"]) for name in names}
    images = len(parts["train"].paths)
    if "test" in parts and validation:
        raise UserError(f"{folder} has a test/ folder, so val/ is the validation split: set dataset.validation=0")
    if "test" not in parts and not 0 < validation < images:
        raise UserError(
            f"{folder} has no test/ folder, so val/ is the test split: set dataset.validation to the number "
            f"of train/'s {images} images to use for validation, not {validation}"
        )
    return parts


def split_rows(parts: Mapping[str, Part], validation: int, split_seed: int) -> list[tuple[str, np.ndarray]]:
    """Of training, validation and test: the part that holds it, and which of its images, int64 [n]."""
    everything = {name: np.arange(len(part.paths)) for name, part in parts.items()}
    if "test" in parts:
        return [(name, everything[name]) for name in ("train", "val", "test")]
    labels = parts["train"].labels
    train, carved = stratified_split(labels, [len(labels) - validation, validation], split_seed)
    return [("train", train), ("train", carved), ("val", everything["val"])]


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


def report_left_out(parts: Sequence[Part], frames: int) -> None:
    """What was not read of a folder, with counts."""
    for part in parts:
        if part.left_out:
            announce(f"{part.name}/: files left out: {_suffixes(part.left_out)}")
    if frames:
        announce(f"images with several frames, of which the first was read: {frames:,}")


def _suffixes(files: Counter[str]) -> str:
    shown = [f"{number:,} {suffix}" for suffix, number in files.most_common(8)]
    return ", ".join(shown) + (", ..." if len(files) > 8 else "")
