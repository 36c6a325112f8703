"""CIFAR archives in their real binary layout load; a damaged one is refused before anything is unpacked."""

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.datasets.cifar import Cifar
from harness.datasets.examples import Examples
from harness.datasets.images import ImageExamples
from harness.plan.errors import UserError

FILES_10 = [f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)] + ["cifar-10-batches-bin/test_batch.bin"]
FILES_100 = ["cifar-100-binary/train.bin", "cifar-100-binary/test.bin"]


def records(classes: int, count: int, seed: int) -> tuple[bytes, np.ndarray, np.ndarray]:
    """One file's bytes, its labels and its pixels [n, 3, 32, 32], laid out as the CIFAR page describes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    pixels = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
    superclass = [labels // 5] if classes == 100 else []
    content = np.column_stack([*superclass, labels, pixels]).astype(np.uint8).tobytes()
    return content, labels, pixels.reshape(-1, 3, 32, 32)


def write_archive(path: Path, contents: dict[str, bytes]) -> str:
    """A .tar.gz of `contents`; returns its SHA-256."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def archive_10(tmp_path) -> tuple[Path, str]:
    contents = {name: records(10, 20, seed)[0] for seed, name in enumerate(FILES_10)}
    path = tmp_path / "cifar-10-binary.tar.gz"
    return path, write_archive(path, contents)


def cifar_10(tmp_path: Path, path_and_digest: tuple[Path, str], **extra) -> Cifar:
    path, sha256 = path_and_digest
    arguments = {"archive": str(path), "sha256": sha256, "validation": 30, **extra}
    return Cifar(10, root=str(tmp_path / "cache"), **arguments)


@pytest.fixture
def server(tmp_path) -> Iterator[str]:
    """URL of an HTTP server over `tmp_path`."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with HTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_the_real_cifar_10_layout_loads_with_its_pixels_and_labels(tmp_path, archive_10):
    splits = cifar_10(tmp_path, archive_10).load()
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (70, 30, 20)
    _, labels, pixels = records(10, 20, seed=5)  # test_batch.bin
    inputs, targets = splits.test.to(torch.device("cpu"), torch.float64).batch(torch.arange(20))
    assert targets.tolist() == labels.tolist()
    mean, std = channel_statistics(splits.train)
    assert torch.allclose(inputs * std + mean, torch.from_numpy(pixels).double())


def channel_statistics(train: Examples) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the training images' bytes, computed the plain way."""
    assert isinstance(train, ImageExamples)
    images = train.images.double()
    return images.mean((0, 2, 3)).view(3, 1, 1), images.std((0, 2, 3), correction=0).view(3, 1, 1)


def test_the_second_of_the_two_label_bytes_of_cifar_100_is_the_class(tmp_path):
    contents = {name: records(100, 200, seed)[0] for seed, name in enumerate(FILES_100)}
    sha256 = write_archive(tmp_path / "archive.tar.gz", contents)
    archive, root = str(tmp_path / "archive.tar.gz"), str(tmp_path / "cache")
    splits = Cifar(100, validation=100, archive=archive, sha256=sha256, root=root).load()
    assert splits.test.batch(torch.arange(200)).targets.tolist() == records(100, 200, seed=1)[1].tolist()
    _, counts = splits.validation.batch(torch.arange(100)).targets.unique(return_counts=True)
    assert counts.tolist() == [1] * 100


def test_validation_images_are_stratified_and_disjoint_from_training_images(tmp_path, archive_10):
    splits = cifar_10(tmp_path, archive_10).load()
    parts = [part.batch(torch.arange(len(part))).inputs for part in (splits.train, splits.validation)]
    images = [{image.numpy().tobytes() for image in inputs} for inputs in parts]
    assert not images[0] & images[1]
    assert len(images[0] | images[1]) == 100
    assert splits.validation.batch(torch.arange(30)).targets.bincount().tolist() == [3] * 10


def test_the_split_follows_its_seed_alone(tmp_path, archive_10):
    fingerprints = [cifar_10(tmp_path, archive_10, split_seed=seed).load().fingerprint for seed in (0, 0, 1)]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_an_archive_with_one_flipped_byte_is_refused(tmp_path, archive_10):
    path, sha256 = archive_10
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"not {sha256}") as refusal:
        cifar_10(tmp_path, archive_10).load()
    assert "\n" not in str(refusal.value)
    assert not list((tmp_path / "cache").glob("cifar*"))


def test_an_archive_that_is_not_the_official_one_is_refused_by_default(tmp_path, archive_10):
    official = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
    with pytest.raises(UserError, match=f"not {official}"):
        cifar_10(tmp_path, archive_10, sha256=None).load()


def test_a_download_is_checked_unpacked_once_and_used_again_without_network(tmp_path, archive_10, server):
    path, _ = archive_10
    dataset = cifar_10(tmp_path, archive_10, archive=f"{server}/{path.name}")
    first = dataset.load()
    path.unlink()
    assert dataset.load().fingerprint == first.fingerprint
    assert not list((tmp_path / "cache").rglob("*.tar.gz"))


def test_a_corrupt_download_is_refused_in_one_line(tmp_path, archive_10, server):
    path, _ = archive_10
    with pytest.raises(UserError, match="does not match the known hash") as refusal:
        cifar_10(tmp_path, archive_10, archive=f"{server}/{path.name}", sha256="0" * 64).load()
    assert "\n" not in str(refusal.value)
    assert not list((tmp_path / "cache").glob("cifar*"))


def test_an_unreachable_server_tells_how_to_go_without_network(tmp_path, archive_10, server):
    with pytest.raises(UserError, match=r"set dataset\.archive to the file"):
        cifar_10(tmp_path, archive_10, archive=f"{server}/missing.tar.gz").load()


@pytest.mark.parametrize(
    ("contents", "told"),
    [
        ({name: records(10, 20, 0)[0][:-1] for name in FILES_10}, "truncated"),
        (
            {name: records(10, 20, 0)[0] for name in FILES_10[:-1]},
            "cifar-10-batches-bin/test_batch.bin does not exist: the CIFAR-10 archive .* has no such file",
        ),
        ({name: bytes([10]) + bytes(3072) for name in FILES_10}, "label 10"),
    ],
)
def test_an_archive_of_another_layout_is_refused(tmp_path, contents, told):
    path = tmp_path / "archive.tar.gz"
    sha256 = write_archive(path, contents)
    with pytest.raises(UserError, match=told):
        cifar_10(tmp_path, (path, sha256)).load()


@pytest.mark.parametrize("name", ["../../escaped.bin", "/escaped.bin"])
def test_an_archive_that_reaches_outside_its_folder_is_refused(tmp_path, name):
    path = tmp_path / "archive.tar.gz"
    sha256 = write_archive(path, {**{file: records(10, 20, 0)[0] for file in FILES_10}, name: b"x"})
    with pytest.raises(UserError, match="cannot be unpacked"):
        cifar_10(tmp_path, (path, sha256)).load()
    assert not list(tmp_path.rglob("escaped.bin"))


def test_a_file_that_is_no_archive_a_missing_one_and_impossible_sizes_are_refused(tmp_path, archive_10):
    path = tmp_path / "no.tar.gz"
    path.write_bytes(b"no archive")
    with pytest.raises(UserError, match="cannot be unpacked"):
        cifar_10(tmp_path, (path, hashlib.sha256(b"no archive").hexdigest())).load()
    with pytest.raises(UserError, match="does not exist"):
        cifar_10(tmp_path / "elsewhere", (tmp_path / "none.tar.gz", "0" * 64)).load()
    with pytest.raises(UserError, match="100 training images"):
        cifar_10(tmp_path, archive_10, validation=100).load()
    with pytest.raises(UserError, match="10 or 100"):
        Cifar(classes=20)


def test_a_downloaded_archive_survives_an_interruption_of_unpacking(tmp_path, archive_10, server, monkeypatch):
    path, _ = archive_10
    dataset = cifar_10(tmp_path, archive_10, archive=f"{server}/{path.name}")
    with monkeypatch.context() as patch:
        patch.setattr("tarfile.open", interrupt)
        with pytest.raises(KeyboardInterrupt):
            dataset.load()
    path.unlink()
    assert len(dataset.load().train) == 70


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_sizes_of_the_official_archives_are_declared_and_those_of_others_are_not(tmp_path, archive_10):
    assert cifar_10(tmp_path, archive_10).declared_sizes() is None
    official = Cifar(validation=5000, root=str(tmp_path))
    assert (official.declared_sizes(), official.is_prepared()) == ((45_000, 5000, 10_000), False)
    with pytest.raises(UserError, match="between 1 and 49999"):
        Cifar(validation=50_000).declared_sizes()
