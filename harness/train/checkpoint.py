"""A trial's checkpoint: complete or absent, tensors and plain numbers only, the newest two kept (P9)."""

import re
from pathlib import Path
from typing import Any

import torch

from harness.record.files import replacing

KEEP = 2


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int | None = KEEP) -> None:
    """Write `folder/<step>.pt` by temporary name, fsync and rename, then delete all but the newest `keep` (None: keep
    all)."""
    folder.mkdir(exist_ok=True)  # never its parent, the trial's folder: if that is gone, so is the file system
    try:
        with replacing(folder / f"{step}.pt") as file:
            torch.save(state, file)
    except BaseException as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None  # torch reports a full disk as its archive's "unexpected pos"
        raise
    for old in checkpoint_steps(folder)[:-keep] if keep else []:
        (folder / f"{old}.pt").unlink(missing_ok=True)


def load_checkpoint(folder: Path, maps: bool = False) -> tuple[int, dict[str, Any]] | None:
    """The newest readable checkpoint, as (step, state on the CPU); None where there is none. `maps`: read tensors from
    the file when they are used, so that all ranks of a node share its pages; copy them before it is deleted."""
    for step in reversed(checkpoint_steps(folder)):
        try:
            return step, torch.load(folder / f"{step}.pt", map_location="cpu", weights_only=True, mmap=maps)
        except Exception:
            continue  # a damaged file can raise anything; the one before it will do
    return None


def checkpoint_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints present, ascending."""
    return sorted(int(path.stem) for path in folder.glob("*.pt") if re.fullmatch(r"\d+", path.stem))


def remove_checkpoints(folder: Path) -> None:
    """Delete a finished trial's checkpoints and what a killed writer left behind."""
    if folder.is_dir() and not folder.is_symlink():
        for path in folder.iterdir():
            path.unlink(missing_ok=True)
        folder.rmdir()
