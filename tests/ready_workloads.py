"""Tiny stand-ins for the data of the ready workloads, in the real formats, and what makes each workload small."""

import csv
import hashlib
import io
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SMALL = (
    "workload.base_batch_size=16",
    "workload.base_lr=0.01",
    "workload.stop_at_target=false",
    "workload.evaluate_every_examples=64",
    "workload.budget={examples: 192}",
    "schedule.warmup={examples: 32}",
    "workload.averaging={half_life_examples: 16, decide_on: averaged}",
)
GHOST = ("workload.batch_norm.span_examples=8", "workload.batch_norm.statistics_examples=32")


def cifar10(folder: Path) -> list[str]:
    """The binary archive, with 64 images in each of its files, dark to bright by class."""
    rng = np.random.default_rng(0)
    archive = folder / "cifar-10-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
            labels = np.arange(64) % 10
            pixels = rng.integers(0, 100, (64, 3072)) + 15 * labels[:, None]
            content = np.column_stack([labels, pixels]).astype(np.uint8).tobytes()
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    where = [f"dataset.archive={archive}", f"dataset.sha256={digest}", f"dataset.root={folder / 'cache'}"]
    return [*where, "dataset.validation=32", *GHOST, *SMALL]


def imagenet(folder: Path) -> list[str]:
    """train/ and val/ of JPEGs of several shapes in four classes, dark to bright."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 8)):
        for label in range(4):
            place = folder / "imagenet" / split / f"n0144076{label}"
            place.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 60, (40 + i, 48, 3), dtype=np.uint8) + np.uint8(60 * label)
                Image.fromarray(pixels).save(place / f"n0144076{label}_{i}.JPEG")
    where = [f"dataset.folder={folder / 'imagenet'}", f"dataset.root={folder / 'cache'}", "dataset.validation=16"]
    return [*where, "dataset.size=32", "model.classes=4", "dataset.augment.classes=4", *SMALL]


def fineweb(folder: Path) -> list[str]:
    """Shards with llm.c's header, of tokens that count up."""
    place = folder / "fineweb10B"
    place.mkdir()
    for name in ("fineweb_train_000001.bin", "fineweb_train_000002.bin", "fineweb_val_000000.bin"):
        tokens = (np.arange(16 * 40 + 1) * 7 % 97).astype("<u2")
        header = np.zeros(256, dtype="<i4")
        header[:3] = (20240520, 1, len(tokens))
        (place / name).write_bytes(header.tobytes() + tokens.tobytes())
    where = [f"dataset.folder={place}", f"dataset.root={folder / 'cache'}", "dataset.context=16", "model.context=16"]
    return [*where, "dataset.train=72", "dataset.validation=16", "dataset.test=16", *SMALL]


def texts(folder: Path) -> list[str]:
    """A CSV file of short reviews."""
    words, chance = {"bad": "dull poor slow", "good": "fine rich quick"}, random.Random(0)
    with (folder / "texts.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["text", "label"])
        for _ in range(400):
            label = chance.choice(["bad", "good"])
            table.writerow([" ".join(chance.choices([*words[label].split(), "the"], k=chance.randint(2, 6))), label])
    return [f"dataset.folder={folder}", *SMALL]


RESNET56 = ("model.depth=8", "schedule.warmup=0", "workload.averaging={half_life_examples: 0, decide_on: raw}")
VIT = ("model.size=32", "model.width=16", "model.depth=1", "model.heads=2")
# workload -> what writes its data, and what makes its model small
WORKLOADS: dict[str, tuple[Callable[[Path], list[str]], tuple[str, ...]]] = {
    "cifar10_resnet18": (cifar10, ("+model.width=4",)),
    "cifar10_resnet56": (cifar10, RESNET56),
    "imagenet_resnet50": (imagenet, ("model.blocks=[1,1,1,1]", "model.width=8", *GHOST)),
    "imagenet_vit_s16": (imagenet, VIT),
    "fineweb_gpt2_small": (fineweb, ("model.depth=1", "model.width=16", "model.heads=2", "model.vocabulary=128")),
    "text_file_text_encoder": (texts, ("model.width=16", "model.depth=1")),
}
