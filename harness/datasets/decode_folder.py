"""Decoding every image of a folder once, piece by piece: an interrupted run keeps its finished pieces."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from harness.datasets.decode_image import decode
from harness.datasets.image_files import Part, report_left_out
from harness.datasets.images import channel_sums
from harness.datasets.progress import Progress
from harness.plan.errors import UserError

DECODER = 2  # changes with what decoding makes of a file, so that nothing decoded otherwise is reused
DECODED_AT_ONCE = 1024  # images of a piece
LISTED = 20  # unreadable files named in an error; all of them are in a file
JOURNAL = "pieces.jsonl"


@dataclass(frozen=True)
class Piece:
    """Some images of a part that follow each other; `key`: a hash of all that their pixels depend on, except the bytes
    in equally long files."""

    key: str
    start: int
    paths: Sequence[Path]


def decode_folder(folder: Path, parts: Mapping[str, Part], size: int, prepared: Path) -> None:
    """Write <part>.npy, uint8 [n, 3, size, size], and manifest.json with their digests and train/'s sums. Pieces that
    an earlier run has written to `prepared` are kept. UserError for images that cannot be read, after all were tried.
    """
    pieces = Pieces(prepared, size)
    sums = np.zeros((2, 3), dtype=np.int64)
    digests: dict[str, str] = {}
    for name, part in parts.items():
        digest = hashlib.sha256()
        with _pixel_file(prepared / f"{name}.npy", len(part.paths), size) as file:
            for row in pieces.of(part, folder, file):
                digest.update(_read(file, row, size))
                if name == "train":
                    sums += np.array(row["sums"])
        digests[name] = digest.hexdigest()
    pieces.close(folder, parts, prepared.parent)
    (prepared / JOURNAL).unlink()
    manifest = {"sha256": digests, "train_channel_sums": sums.tolist()}
    (prepared / "manifest.json").write_text(json.dumps(manifest))


def measure_folder(folder: Path, train: Part, size: int, prepared: Path) -> None:
    """Write manifest.json with train/'s sums only."""
    pieces = Pieces(prepared, size)
    sums = np.sum([row["sums"] for row in pieces.of(train, folder, None)], axis=0, dtype=np.int64)
    pieces.close(folder, {"train": train}, prepared.parent)
    (prepared / "manifest.json").write_text(json.dumps({"train_channel_sums": sums.tolist()}))


class Pieces:
    """The pieces that are decoded, in a journal of one line each."""

    def __init__(self, prepared: Path, size: int) -> None:
        self.size = size
        self.journal = prepared / JOURNAL
        self.unreadable: list[str] = []
        self.frames = 0  # images with further frames
        self._known = {row["key"]: row for row in _rows(self.journal)}

    def of(self, part: Part, folder: Path, file: BinaryIO | None) -> Iterator[dict[str, Any]]:
        """The journal's row of each piece of a part whose images can all be read. Its pixels are in `file` then."""
        progress = Progress(f"{part.name}/", len(part.paths), "images decoded")
        with ThreadPoolExecutor() as threads, self.journal.open("a", encoding="utf-8") as journal:
            for piece in _pieces(part, folder, self.size):
                row = self._known.get(piece.key)
                if row is not None and (file is None or _is_whole(file, row, self.size)):
                    progress.advance(len(piece.paths))
                elif (row := self._decoded(threads, piece, file, progress)) is not None:
                    journal.write(json.dumps(row) + "\n")
                    journal.flush()
                if row is not None:
                    self.frames += row["frames"]
                    yield row

    def _decoded(
        self, threads: ThreadPoolExecutor, piece: Piece, file: BinaryIO | None, progress: Progress
    ) -> dict[str, Any] | None:
        """Decode a piece into `file`, on disk when this returns; None where an image cannot be read."""
        read: list[np.ndarray] = []
        frames, failed = 0, list[str]()
        for image in threads.map(
            partial(_try_to_decode, size=self.size), piece.paths
        ):  # Pillow decodes outside the GIL
            progress.advance(1)
            if isinstance(image, UserError):
                failed.append(str(image))
            else:
                read.append(image[0])
                frames += image[1]
        self.unreadable += failed
        if failed:
            return None
        images = np.stack(read)
        content = images.tobytes() if file is not None else b""
        if file is not None:
            file.seek(_offset(file, piece.start, self.size))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return {
            "key": piece.key,
            "start": piece.start,
            "images": len(read),
            "frames": frames,
            "sums": channel_sums(images).tolist(),
            "sha256": hashlib.sha256(content).hexdigest(),
        }

    def close(self, folder: Path, parts: Mapping[str, Part], root: Path) -> None:
        """Report what was left out; UserError on every file that could not be decoded. Where they are many, they are
        also listed in a file."""
        if not self.unreadable:
            report_left_out([*parts.values()], self.frames)
            return
        named = "; ".join(self.unreadable[:LISTED])
        if len(self.unreadable) > LISTED:
            path = root / f"unreadable-{folder.name}.txt"
            path.write_text("\n".join(self.unreadable) + "\n")
            named += f"; and {len(self.unreadable) - LISTED:,} more, all listed in {path}"
        images = sum(len(part.paths) for part in parts.values())
        raise UserError(f"{len(self.unreadable):,} of {images:,} images cannot be read, repair or remove: {named}")


def _pieces(part: Part, folder: Path, size: int) -> Iterator[Piece]:
    for start in range(0, len(part.paths), DECODED_AT_ONCE):
        chosen = slice(start, start + DECODED_AT_ONCE)
        paths = part.paths[chosen]
        digest = hashlib.sha256(f"{size} {DECODER} {part.name} {start}".encode())
        for path, held in zip(paths, part.bytes_on_disk[chosen], strict=True):
            digest.update(f"\0{path.relative_to(folder)}\0{held}".encode())
        yield Piece(digest.hexdigest(), start, paths)


def _pixel_file(path: Path, images: int, size: int) -> BinaryIO:
    """A .npy file of so many images, uint8 [n, 3, size, size]; what it holds already is kept."""
    path.touch()
    file = path.open("r+b")
    shape = (images, 3, size, size)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    file.truncate(file.tell() + images * 3 * size**2)
    return file


def _offset(file: BinaryIO, start: int, size: int) -> int:
    """Where image `start` is: pixels come last."""
    file.seek(0)
    version = np.lib.format.read_magic(file)
    assert version == (1, 0)
    np.lib.format.read_array_header_1_0(file)
    return file.tell() + start * 3 * size**2


def _read(file: BinaryIO, row: Mapping[str, Any], size: int) -> bytes:
    file.seek(_offset(file, row["start"], size))
    return file.read(row["images"] * 3 * size**2)


def _is_whole(file: BinaryIO, row: Mapping[str, Any], size: int) -> bool:
    return hashlib.sha256(_read(file, row, size)).hexdigest() == row["sha256"]


def _rows(journal: Path) -> list[dict[str, Any]]:
    """The whole rows of a journal; a line that a killed process was writing is cut off."""
    text = journal.read_text(encoding="utf-8") if journal.is_file() else ""
    if (end := text.rfind("\n") + 1) < len(text):
        journal.write_text(text[:end], encoding="utf-8")
    return [json.loads(line) for line in text[:end].splitlines()]


def _try_to_decode(path: Path, size: int) -> tuple[np.ndarray, bool] | UserError:
    try:
        return decode(path, size)
    except UserError as error:
        return error
