"""CIFAR-10 and CIFAR-100 from their official binary archives: checksum verified, nothing unpickled."""

import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pooch
import torch
from pooch.downloaders import choose_downloader

from harness.datasets.examples import Augment, Splits, stratified_split, tensor_fingerprint
from harness.datasets.images import ImageExamples, channel_sums, normalisation
from harness.datasets.prepare import is_prepared, prepare_once
from harness.datasets.progress import Progress
from harness.plan.errors import UserError

DOWNLOADED = "archive.tar.gz"
TRAIN_IMAGES, TEST_IMAGES = 50_000, 10_000
IMAGE = (3, 32, 32)  # channels red, green, blue; rows from the top


@dataclass(frozen=True)
class Archive:
    """An archive and its record layout: `label_bytes` labels, of which the last is used, then the pixels."""

    url: str
    sha256: str
    train_files: tuple[str, ...]
    test_file: str
    label_bytes: int


# Layout: https://www.cs.toronto.edu/~kriz/cifar.html, which publishes MD5 sums only. The SHA-256 values are those with
# which JuliaML/MLDatasets.jl, ankane/torchvision-ruby and gomlx/gomlx verify their downloads of the same archives.
ARCHIVES = {
    10: Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        tuple(f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)),
        "cifar-10-batches-bin/test_batch.bin",
        label_bytes=1,
    ),
    100: Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        ("cifar-100-binary/train.bin",),
        "cifar-100-binary/test.bin",
        label_bytes=2,  # superclass, class
    ),
}


class DownloadProgress:
    """What pooch asks of a progress bar."""

    def __init__(self, url: str) -> None:
        self.total = 0  # bytes; set by pooch
        self._progress = Progress(url, 0, "bytes downloaded")

    def update(self, size: int) -> None:
        """pooch gives the size of a chunk, also for the last, smaller one, and the total once more at the end."""
        self._progress.total = self.total
        left = self.total - self._progress.count
        self._progress.advance(min(size, left) if self.total else size)

    def reset(self) -> None:
        pass

    def close(self) -> None:
        pass


class Cifar:
    """Images [n, 3, 32, 32], labels 0 to `classes` - 1; normalised by the statistics of the training split.

    A stratified validation split of `validation` images is carved from the 50,000 training images (45,000 remain);
    the test split is the official one. `archive` is a path or URL of the archive, for where the official server cannot
    be reached; any archive is rejected unless its SHA-256 is `sha256` (default: the official archive's).
    """

    def __init__(
        self,
        classes: int = 10,
        validation: int = 5000,
        split_seed: int = 0,
        augment: Augment | None = None,
        root: str = "~/.cache/harness",
        archive: str | None = None,
        sha256: str | None = None,
    ) -> None:
        if classes not in ARCHIVES:
            raise UserError(f"dataset.classes of CIFAR must be 10 or 100, not {classes}")
        self.classes = classes
        self.validation = validation
        self.split_seed = split_seed
        self.augment = augment
        self.root = Path(root).expanduser()
        self.source = archive or ARCHIVES[classes].url
        self.sha256 = sha256 or ARCHIVES[classes].sha256
        self.name = f"cifar-{classes}-{self.sha256[:16]}"

    def declared_sizes(self) -> tuple[int, int, int] | None:
        """Those of the official archives; None for another one, and for a file, which needs no download."""
        if self.sha256 != ARCHIVES[self.classes].sha256 or "://" not in self.source:
            return None
        self._check_validation(TRAIN_IMAGES)
        return TRAIN_IMAGES - self.validation, self.validation, TEST_IMAGES

    def is_prepared(self) -> bool:
        """Whether the archive has been unpacked on this node."""
        return is_prepared(self.root, self.name)

    def missing(self) -> str | None:
        """What the first run will download; None if there is nothing left to."""
        if self.is_prepared():
            return None
        return (
            f"the first run downloads {self.source} into {self.root}; without network access, give "
            f"dataset.archive=PATH of {PurePosixPath(self.source).name}"
        )

    def load(self) -> Splits:
        """Downloads and unpacks on first use on a node; later loads read the unpacked files."""
        if not self.is_prepared():
            self._check_source()
        folder = prepare_once(self.root, self.name, self._download_and_unpack, parts=self.name)
        layout = ARCHIVES[self.classes]
        parts = [self._records(folder / file) for file in layout.train_files]
        images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        self._check_validation(len(labels))
        train, validation = stratified_split(labels, [len(labels) - self.validation, self.validation], self.split_seed)
        test_images, test_labels = self._records(folder / layout.test_file)
        normalise = normalisation(channel_sums(images[train]), len(train) * IMAGE[1] * IMAGE[2])
        splits = [
            ImageExamples(torch.from_numpy(pixels), torch.from_numpy(targets), normalise)
            for pixels, targets in (
                (images[train], labels[train]),
                (images[validation], labels[validation]),
                (test_images, test_labels),
            )
        ]
        fingerprint = tensor_fingerprint(*(t for split in splits for t in (split.images, split.targets)))
        return Splits(*splits, fingerprint=fingerprint, augment=self.augment)

    def _check_validation(self, images: int) -> None:
        if not 0 < self.validation < images:
            raise UserError(
                f"dataset.validation must be between 1 and {images - 1} of the {images} training images, not "
                f"{self.validation}"
            )

    def _check_source(self) -> None:
        """Raises UserError for a path that is not a file, before anything is written."""
        archive = Path(self.source).expanduser()
        if "://" in self.source or archive.is_file():
            return
        if archive.is_dir():
            file = PurePosixPath(ARCHIVES[self.classes].url).name
            raise UserError(f"dataset.archive {archive} is a directory: give the path of the archive, {file}")
        raise UserError(f"dataset.archive {archive} does not exist")

    def _download_and_unpack(self, folder: Path) -> None:
        """An archive that was downloaded before an interruption is used again, all else of then is removed."""
        for left in folder.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
            elif left.name != DOWNLOADED:
                left.unlink()
        archive = self._verified_archive(folder)
        try:
            with tarfile.open(archive) as tar:
                self._unpack(tar, folder)
        except (tarfile.TarError, EOFError) as error:
            raise UserError(f"{self.source} cannot be unpacked: {error}") from error
        if archive.parent == folder:
            archive.unlink()

    def _unpack(self, tar: tarfile.TarFile, folder: Path) -> None:
        """Unpack the files of the layout and no others; UserError for an archive that reaches outside its folder.
        tarfile's own filter is newer than Python 3.11."""
        layout = ARCHIVES[self.classes]
        names = {*layout.train_files, layout.test_file}
        for member in tar:
            if PurePosixPath(member.name).is_absolute() or ".." in PurePosixPath(member.name).parts:
                raise UserError(f"{self.source} cannot be unpacked: {member.name!r} is outside the archive's folder")
            content = tar.extractfile(member) if member.isreg() and member.name in names else None
            if content is not None:
                (folder / member.name).parent.mkdir(parents=True, exist_ok=True)
                with content, open(folder / member.name, "wb") as file:
                    shutil.copyfileobj(content, file)

    def _verified_archive(self, folder: Path) -> Path:
        """The archive as a file, downloaded into `folder` where it is a URL."""
        if "://" not in self.source:
            archive = Path(self.source).expanduser()
            if (sha256 := pooch.file_hash(str(archive), alg="sha256")) != self.sha256:
                raise UserError(f"{archive} has SHA-256 {sha256}, not {self.sha256}: download it again")
            return archive
        try:
            bar: Any = DownloadProgress(self.source)  # annotated as a bool there
            downloader = choose_downloader(self.source, progressbar=bar)
            return Path(pooch.retrieve(self.source, f"sha256:{self.sha256}", DOWNLOADED, folder, downloader=downloader))
        except ValueError as error:  # pooch: hash mismatch, or a URL it cannot read
            raise UserError(f"{self.source} is rejected: {error}") from error
        except OSError as error:
            raise UserError(
                f"cannot download {self.source} ({type(error).__name__}): download it on a machine with network access "
                "and set dataset.archive to the file"
            ) from error

    def _records(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 [n, 3, 32, 32] and labels int64 [n]."""
        label_bytes = ARCHIVES[self.classes].label_bytes
        if not path.is_file():
            raise UserError(
                f"{path} does not exist: the CIFAR-{self.classes} archive {self.source} has no such file, or it was "
                f"removed from the folder; remove {path.parents[1]} to unpack the archive again"
            )
        content = np.fromfile(path, dtype=np.uint8)
        length = label_bytes + int(np.prod(IMAGE))
        if not len(content) or len(content) % length:
            raise UserError(f"{path} is truncated: {len(content):,} bytes, not a multiple of the {length} of a record")
        records = content.reshape(-1, length)
        labels = records[:, label_bytes - 1].astype(np.int64)
        if labels.max() >= self.classes:
            raise UserError(f"{path} has a label {labels.max()}, but CIFAR-{self.classes} has {self.classes} classes")
        return records[:, label_bytes:].reshape(-1, *IMAGE), labels
