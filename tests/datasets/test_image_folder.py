"""Image folders are decoded once, whole, and every damage is told in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from harness.datasets import decode_folder
from harness.datasets.decode_image import decode
from harness.datasets.examples import Examples, Splits
from harness.datasets.image_folder import ImageFolder, LazyImageFolder
from harness.datasets.images import StreamedImages
from harness.plan.errors import UserError

CLASSES = ("apple", "pear")


def write_image(path: Path, seed: int, size: tuple[int, int] = (20, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path) -> Path:
    for part, count in (("train", 6), ("val", 2)):
        for label, name in enumerate(CLASSES):
            for i in range(count):
                write_image(tmp_path / "fruit" / part / name / f"{i}.jpg", seed=100 * label + i)
    return tmp_path / "fruit"


def load(folder: Path, **extra) -> Splits:
    return ImageFolder(
        str(folder), **{"size": 8, "validation": 4, "root": str(folder.parent / "cache"), **extra}
    ).load()


def streamed(examples: Examples) -> StreamedImages:
    assert isinstance(examples, StreamedImages)
    return examples


def refusal(folder: Path, **extra) -> str:
    """The message of the UserError that loading raises: one line, and no folder that seems finished."""
    with pytest.raises(UserError) as error:
        load(folder, **extra)
    assert "\n" not in str(error.value)
    assert not list((folder.parent / "cache").glob("images-*"))
    return str(error.value)


def test_without_a_test_folder_val_is_the_test_split_and_validation_is_carved_from_train(folder):
    splits = load(folder)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (8, 4, 4)
    assert splits.validation.batch(torch.arange(4)).targets.bincount().tolist() == [2, 2]
    assert not set(streamed(splits.train).rows.tolist()) & set(streamed(splits.validation).rows.tolist())


def test_with_a_test_folder_every_folder_is_its_split(folder):
    for name in CLASSES:
        write_image(folder / "test" / name / "0.png", seed=7)
    splits = load(folder, validation=0)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (12, 4, 2)
    assert "set dataset.validation=0" in refusal_of_arguments(folder, validation=4)


def refusal_of_arguments(folder: Path, **extra) -> str:
    with pytest.raises(UserError) as error:
        load(folder, **extra)
    return str(error.value)


def test_an_image_of_the_right_size_arrives_unchanged_with_its_label(folder):
    write_image(folder / "val" / "pear" / "9.png", seed=42, size=(8, 8))
    splits = load(folder)
    inputs, targets = splits.test.to(torch.device("cpu"), torch.float64).batch(torch.tensor([4]))
    normalise = streamed(splits.test).normalise
    pixels = np.random.default_rng(42).integers(0, 256, (8, 8, 3), dtype=np.uint8).transpose(2, 0, 1)
    assert torch.allclose(inputs[0] * normalise.std + normalise.mean, torch.from_numpy(pixels).double())
    assert targets.tolist() == [1]


def test_a_wide_image_keeps_its_centred_square(folder):
    stripes = np.zeros((10, 30, 3), dtype=np.uint8)
    stripes[:, 10:20] = 255
    Image.fromarray(stripes).save(folder / "val" / "apple" / "00.png")
    image = streamed(load(folder).test).images[1].float()  # after 0.jpg by name
    assert (image[..., 1:-1] == 255).all()
    assert (image > 128).all()  # antialiasing lets the black beside the square reach the outermost pixels


def test_inputs_are_normalised_by_the_statistics_of_the_training_folder(folder):
    splits = load(folder)
    cpu = torch.device("cpu")
    parts = [part.to(cpu, torch.float64).batch(torch.arange(len(part))) for part in (splits.train, splits.validation)]
    inputs = torch.cat([part.inputs for part in parts])
    assert torch.allclose(inputs.mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(inputs.std((0, 2, 3), correction=0), torch.ones(3, dtype=torch.float64), atol=1e-9)


def test_a_decoded_folder_is_reused_and_a_changed_one_is_not(folder, capfd):
    first = load(folder)
    assert "12 of 12 images decoded" in capfd.readouterr().err
    assert load(folder).fingerprint == first.fingerprint
    assert capfd.readouterr().err == ""
    write_image(folder / "train" / "pear" / "3.jpg", seed=77, size=(24, 24))
    assert load(folder).fingerprint != first.fingerprint
    assert "12 of 12 images decoded" in capfd.readouterr().err
    assert streamed(load(folder, size=4).test).images.shape[-1] == 4


def test_the_split_follows_its_seed_alone(folder):
    fingerprints = [load(folder, split_seed=seed).fingerprint for seed in (0, 0, 1)]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_a_corrupt_image_is_named_and_after_its_repair_everything_is_decoded(folder):
    bad = folder / "train" / "pear" / "3.jpg"
    content = bad.read_bytes()
    bad.write_bytes(content[: len(content) // 2])
    assert str(bad) in refusal(folder)
    bad.write_bytes(b"no image at all")
    assert str(bad) in refusal(folder)
    bad.write_bytes(content)
    assert len(load(folder).train) == 8


def test_an_empty_class_is_named(folder):
    (folder / "train" / "quince").mkdir()
    write_image(folder / "val" / "quince" / "0.jpg", seed=0)
    (folder / "train" / "quince" / "notes.txt").write_text("none ripe yet")
    assert f"{folder}/train/quince has no images" in refusal(folder)


def test_classes_of_train_and_val_that_differ_are_named(folder):
    write_image(folder / "val" / "quince" / "0.jpg", seed=0)
    assert "only one of them has quince" in refusal(folder)


def test_a_missing_folder_a_folder_without_classes_and_impossible_sizes_are_refused(folder):
    assert "train/<class>/" in refusal(folder / "train")
    (folder / "bare" / "train").mkdir(parents=True)
    assert "no class folder" in refusal_of_arguments(folder / "bare")
    assert "of train/'s 12 images" in refusal(folder, validation=12)
    assert "of train/'s 12 images" in refusal(folder, validation=0)
    assert "dataset.size must be >= 1" in refusal(folder, size=0)


def test_a_disk_without_room_is_refused_before_decoding(folder):
    assert "bytes" in refusal(folder, size=4_000_000)


def test_finished_pieces_of_an_interrupted_decoding_are_kept(folder, monkeypatch):
    whole = ImageFolder(str(folder), 8, 4, root=str(folder.parent / "other")).load()
    monkeypatch.setattr(decode_folder, "DECODED_AT_ONCE", 3)
    decoded: list[Path] = []

    def decode_some(path: Path, size: int) -> tuple[np.ndarray, bool]:
        decoded.append(path)
        if path.parent.name == "pear" and len(decoded) < 16:
            raise KeyboardInterrupt
        return decode(path, size)

    monkeypatch.setattr(decode_folder, "decode", decode_some)
    with pytest.raises(KeyboardInterrupt):
        load(folder)  # six apples are in two pieces, both finished
    decoded += [Path("interrupted")] * 16
    assert load(folder).fingerprint == whole.fingerprint
    again = decoded[decoded.index(Path("interrupted")) + 16 :]
    assert sorted(again) == sorted([*folder.glob("train/pear/*"), *folder.glob("val/*/*")])


def test_after_a_repair_only_the_piece_of_the_damaged_image_is_decoded_again(folder, monkeypatch):
    monkeypatch.setattr(decode_folder, "DECODED_AT_ONCE", 2)
    bad = folder / "train" / "pear" / "3.jpg"
    content = bad.read_bytes()
    bad.write_bytes(b"no image at all")
    assert str(bad) in refusal(folder)
    decoded: list[Path] = []
    monkeypatch.setattr(decode_folder, "decode", lambda path, size: (decoded.append(path), decode(path, size))[1])
    bad.write_bytes(content)
    repaired = load(folder)
    assert sorted(decoded) == [bad.with_name("2.jpg"), bad]
    assert repaired.fingerprint == ImageFolder(str(folder), 8, 4, root=str(folder.parent / "fresh")).load().fingerprint


def test_a_piece_whose_bytes_were_lost_is_decoded_again(folder, monkeypatch):
    whole = ImageFolder(str(folder), 8, 4, root=str(folder.parent / "other")).load()
    bad = folder / "val" / "pear" / "1.jpg"
    content = bad.read_bytes()
    bad.write_bytes(b"no image at all")
    refusal(folder)
    (pixels,) = (folder.parent / "cache").glob(".images-*.partial/train.npy")
    pixels.write_bytes(pixels.read_bytes()[:-50])
    bad.write_bytes(content)
    assert load(folder).fingerprint == whole.fingerprint


@pytest.mark.parametrize("measured", [True, False])
def test_images_decoded_when_they_are_read_have_the_bits_of_those_decoded_once(folder, measured):
    once = load(folder)
    normalise = streamed(once.train).normalise
    mean, std = (values.flatten().div(255).tolist() for values in (normalise.mean, normalise.std))
    given: dict[str, Any] = {} if measured else {"mean": mean, "std": std}
    lazy = LazyImageFolder(str(folder), 8, 4, root=str(folder.parent / "cache"), **given)
    assert lazy.declared_sizes() == (8, 4, 4)
    splits = lazy.load()
    assert lazy.is_prepared()
    for name in ("train", "validation", "test"):
        one, other = (getattr(s, name).to(torch.device("cpu"), torch.float32) for s in (once, splits))
        index = torch.arange(len(one)).flip(0)
        assert torch.equal(one.batch(index).targets, other.batch(index).targets)
        if measured:
            assert torch.equal(one.batch(index).inputs, other.batch(index).inputs)
        else:
            assert torch.allclose(one.batch(index).inputs, other.batch(index).inputs, atol=1e-5)


def test_a_lazy_folder_names_a_damaged_image_and_half_given_statistics(folder):
    bad = folder / "train" / "pear" / "3.jpg"
    bad.write_bytes(b"no image at all")
    lazy = LazyImageFolder(str(folder), 8, 4, root=str(folder.parent / "cache"))
    with pytest.raises(UserError, match=f"1 of 12 images cannot be read, repair or remove: {bad}"):
        lazy.load()
    with pytest.raises(UserError, match="must be three numbers each"):
        LazyImageFolder(str(folder), 8, 4, mean=[0.5, 0.5, 0.5])


def test_a_folder_is_counted_without_decoding_it(folder):
    dataset = ImageFolder(str(folder), 8, 4, root=str(folder.parent / "cache"))
    assert dataset.declared_sizes() == (8, 4, 4)
    assert not dataset.is_prepared()
    assert not (folder.parent / "cache").exists()
    dataset.load()
    assert dataset.is_prepared()
