"""Data sets of Hugging Face and torchvision, read from small files in their own formats."""

import importlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.datasets.examples import Batch, Splits
from harness.plan.errors import UserError
from harness.plan.instantiate import instantiate
from harness.train.loader import Loader

pytestmark = pytest.mark.extras
V2 = "torchvision.transforms.v2"


def load(root: Path, **given: Any) -> Splits:
    spec = {"_target_": "harness.datasets.map_style.MapStyle", "validation": 10, "test": 10, "root": str(root)}
    return instantiate({**spec, **given}).load()


@pytest.fixture
def rows(tmp_path) -> dict[str, Any]:
    """A Parquet file of token sequences with masks, labels and a column of text."""
    library = pytest.importorskip("datasets.arrow_dataset")  # `datasets` alone is also the name of this folder
    lengths = [2 + i % 5 for i in range(60)]
    columns = {
        "input_ids": [[7] * length for length in lengths],
        "attention_mask": [[1] * length for length in lengths],
        "label": [i % 2 for i in range(60)],
        "text": ["words"] * 60,
    }
    library.Dataset.from_dict(columns).to_parquet(tmp_path / "rows.parquet")
    files = {"path": "parquet", "data_files": str(tmp_path / "rows.parquet"), "cache_dir": str(tmp_path / "hf")}
    return {"_target_": "datasets.load_dataset", **files}


def test_a_hugging_face_data_set_gives_its_columns_padded(tmp_path, rows):
    columns = {"inputs": ["input_ids", "attention_mask"], "padding": {"input_ids": 0, "attention_mask": 0}}
    splits = load(tmp_path, train={**rows, "split": "train"}, targets="label", **columns)
    inputs: Any = splits.train.batch(torch.arange(12)).inputs
    assert inputs["input_ids"].sum(1).tolist() == (7 * inputs["attention_mask"].sum(1)).tolist()
    targets: Any = splits.validation.batch(torch.arange(10)).targets
    assert targets.sum() == 5  # stratified by the column


def test_a_hugging_face_data_set_with_splits_and_a_stream_are_refused(tmp_path, rows):
    with pytest.raises(UserError, match=r"has several splits \(train\): choose one, e\.g\. by split=train"):
        load(tmp_path, train=rows, targets="label")
    with pytest.raises(UserError, match="without random access"):
        load(tmp_path, train={**rows, "split": "train", "streaming": True}, targets="label")


def test_cifar_10_of_torchvision_is_transformed_the_same_by_any_number_of_readers(tmp_path):
    datasets = pytest.importorskip("torchvision.datasets")
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name, _ in (*datasets.CIFAR10.train_list, *datasets.CIFAR10.test_list):
        pixels = generator.integers(0, 256, (20, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [i % 10 for i in range(20)]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [*"abcdefghij"]}))
    given = {
        "train": {"_target_": f"{__name__}.unchecked", "root": str(tmp_path), "train": True},
        "test": {"_target_": f"{__name__}.unchecked", "root": str(tmp_path), "train": False},
        "transform": [
            {"_target_": f"{V2}.RandomCrop", "size": 32, "padding": 4},
            {"_target_": f"{V2}.RandomHorizontalFlip"},
            {"_target_": "torchvision.transforms.ToTensor"},
        ],
        "evaluation_transform": {"_target_": "torchvision.transforms.ToTensor"},
    }
    index, cpu = torch.arange(30), torch.device("cpu")
    one, three = (load(tmp_path / "cache", worker_processes=number, **given) for number in (1, 3))
    drawn: list[Any] = [Loader(splits.train, cpu, 5).batch(index, index % 3).inputs for splits in (one, three)]
    assert torch.equal(*drawn)
    assert not torch.equal(drawn[0], one.train.batch(index).inputs)  # pyright: ignore[reportArgumentType]


def unchecked(root: str, train: bool) -> Any:
    """torchvision's CIFAR-10 without its check of the official files' MD5 sums."""
    cifar = importlib.import_module("torchvision.datasets.cifar")
    vars(cifar)["check_integrity"] = lambda *_: True
    return cifar.CIFAR10(root, train=train)


def test_an_image_transform_of_torchvision_augments_one_image_at_a_time():
    pytest.importorskip("torchvision")
    erase = instantiate(
        {
            "_target_": "harness.datasets.augment.PerExample",
            "transforms": [{"_target_": f"{V2}.RandomErasing", "p": 1.0}],
        }
    )
    images, index = torch.ones(6, 3, 16, 16), torch.arange(6)
    whole = erase(Batch(images, index), 0, index, index, 1).inputs
    parts = [erase(Batch(images[i : i + 2], index), 0, index[i : i + 2], index[i : i + 2], 1).inputs for i in (0, 2, 4)]
    assert torch.equal(whole, torch.cat(parts))
    assert (whole == 0).any()
