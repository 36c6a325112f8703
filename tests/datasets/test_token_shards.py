"""Token shards are read in their real formats, in place, and a damaged one is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.datasets import token_shards
from harness.datasets.examples import Splits
from harness.datasets.progress import Progress
from harness.datasets.token_shards import TokenShards
from harness.plan.errors import UserError

CONTEXT = 4


def write_shard(path: Path, tokens: np.ndarray, magic: int | None = 20240520, version: int = 1) -> None:
    """As llm.c's data_common.py writes it, or without a header as nanoGPT's prepare.py does (`magic=None`)."""
    header = np.zeros(256, dtype="<i4")
    header[:3] = (magic or 0, version, len(tokens))
    path.write_bytes((header.tobytes() if magic else b"") + tokens.astype("<u2").tobytes())


@pytest.fixture
def folder(tmp_path) -> Path:
    """Training shards of 9 and 14 tokens (2 + 3 blocks of 4), a validation shard of 13 (3 blocks)."""
    (tmp_path / "text").mkdir()
    write_shard(tmp_path / "text" / "fineweb_train_000001.bin", 65535 - np.arange(9))
    write_shard(tmp_path / "text" / "fineweb_train_000002.bin", 100 + np.arange(14))
    write_shard(tmp_path / "text" / "fineweb_val_000000.bin", 500 + np.arange(13))
    return tmp_path / "text"


def load(folder: Path, **extra) -> Splits:
    arguments = {"train": 5, "validation": 2, "test": 1, "context": CONTEXT, "root": str(folder.parent / "cache")}
    return TokenShards(str(folder), **{**arguments, **extra}).load()


def refusal(folder: Path, **extra) -> str:
    with pytest.raises(UserError) as error:
        load(folder, **extra)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_blocks_run_through_each_shard_and_targets_are_the_next_tokens(folder):
    splits = load(folder)
    inputs, targets = splits.train.batch(torch.arange(5))
    starts = [
        [65535, 65534, 65533, 65532],
        [65531, 65530, 65529, 65528],
        *([b, b + 1, b + 2, b + 3] for b in (100, 104, 108)),
    ]
    assert inputs.tolist() == starts
    assert targets[:, :-1].tolist() == inputs[:, 1:].tolist()
    assert targets[:, -1].tolist() == [65531, 65527, 104, 108, 112]
    assert inputs.dtype == targets.dtype == torch.int64


def test_validation_and_test_blocks_follow_each_other(folder):
    splits = load(folder)
    assert (len(splits.validation), len(splits.test)) == (2, 1)
    assert splits.validation.batch(torch.tensor([0, 1])).inputs[:, 0].tolist() == [500, 504]
    assert splits.test.batch(torch.tensor([0])).inputs[:, 0].tolist() == [508]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_a_batch_keeps_the_order_asked_for_across_shards(folder, index):
    train = load(folder).train
    together = train.batch(torch.tensor(index)).inputs
    alone = [train.batch(torch.tensor([i])).inputs for i in index]
    assert torch.equal(together, torch.cat(alone))


def test_files_without_a_header_hold_the_same_tokens(folder):
    expected = load(folder).train.batch(torch.arange(2))
    write_shard(folder.parent / "train.bin", 65535 - np.arange(9), magic=None)
    write_shard(folder.parent / "val.bin", 500 + np.arange(13), magic=None)
    plain = load(folder.parent, train=2).train.batch(torch.arange(2))
    assert torch.equal(plain.inputs, expected.inputs)
    assert torch.equal(plain.targets, expected.targets)


def test_the_fingerprint_follows_the_content_of_the_shards_in_use(folder):
    first = load(folder, train=2).fingerprint
    assert load(folder, train=2).fingerprint == first
    write_shard(folder / "fineweb_train_000002.bin", 200 + np.arange(14))  # holds no block of the first 2
    assert load(folder, train=2).fingerprint == first
    write_shard(folder / "fineweb_val_000000.bin", 501 + np.arange(13))
    assert load(folder, train=2).fingerprint != first


def test_shards_are_read_for_their_digest_only_once(folder, capfd):
    load(folder)
    assert "digests of 3 shards computed" in capfd.readouterr().err
    load(folder)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kept", [1024 + 2 * 14 - 2, 1024 + 2 * 14 - 1, 1024, 600, 4])
def test_a_truncated_shard_is_named(folder, kept):
    path = folder / "fineweb_train_000002.bin"
    path.write_bytes(path.read_bytes()[:kept])
    assert str(path) in (message := refusal(folder))
    assert f"it has {kept:,} bytes" in message


def test_a_headerless_file_that_ends_inside_a_token_is_named(folder):
    write_shard(folder / "fineweb_train_000002.bin", np.arange(14), magic=None)
    path = folder / "fineweb_train_000002.bin"
    path.write_bytes(path.read_bytes()[:-1])
    assert f"{path} is truncated" in refusal(folder)


def test_shards_in_other_formats_are_refused(folder):
    path = folder / "fineweb_train_000002.bin"
    write_shard(path, np.arange(14), magic=20240801)
    assert "uint32" in refusal(folder)
    write_shard(path, np.arange(14), version=2)
    assert "format version 2" in refusal(folder)
    write_shard(path, np.arange(CONTEXT))
    assert "fewer than one block" in refusal(folder)
    path.write_bytes(b"")
    assert "fewer than one block" in refusal(folder)


def test_npy_shards_hold_the_tokens_after_their_header(folder):
    """The header of build-nanogpt's edu_fineweb shards was read as 64 tokens."""
    expected = load(folder).train.batch(torch.arange(2)).inputs
    np.save(folder / "train.npy", (65535 - np.arange(9)).astype(np.uint16))
    np.save(folder / "val.npy", (500 + np.arange(13)).astype(">u2"))  # also of a machine with the other byte order
    files = {"train_files": "train.npy", "validation_files": "val.npy"}
    splits = load(folder, train=2, **files)
    assert torch.equal(splits.train.batch(torch.arange(2)).inputs, expected)
    assert splits.validation.batch(torch.tensor([0, 1])).inputs[:, 0].tolist() == [500, 504]
    (folder / "train.bin").write_bytes((folder / "train.npy").read_bytes())  # its content says what it is
    by_content = load(folder, train=2, **{**files, "train_files": "train.bin"}).train
    assert torch.equal(by_content.batch(torch.arange(2)).inputs, expected)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.arange(400, dtype=np.int32), "has int32 tokens: only uint16"),
        (np.arange(400, dtype=np.int16), "has int16 tokens: only uint16"),
        (np.arange(400, dtype=np.uint8), "has uint8 tokens: only uint16"),
        (np.ones(400), "has float64 tokens: only uint16"),
        (np.ones((20, 20), dtype=np.uint16), "has the shape (20, 20): tokens must be one line"),
        (np.array([1, "x", None], dtype=object), "is no readable .npy file of numbers"),
    ],
)
def test_npy_files_of_anything_else_are_refused(folder, array, said):
    np.save(folder / "train.npy", array, allow_pickle=True)
    assert said in refusal(folder, train_files="train.npy")


def test_a_damaged_npy_file_is_refused(folder):
    path = folder / "train.npy"
    np.save(path, np.arange(400, dtype=np.uint16))
    whole = path.read_bytes()
    for content in (whole[:-100], whole + b"\0\0", whole[:40], whole[:8] + b"\xff" * 200):
        path.write_bytes(content)
        assert str(path) in refusal(folder, train_files="train.npy")


TEXT = b"A tale of two cities; it was the best of times, it was the worst of times. " * 60
RANDOM = np.random.default_rng(0).integers(0, 50257, 4000)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (RANDOM.astype("<u4").tobytes(), "seems to have 32-bit or 64-bit tokens"),
        (RANDOM.astype("<i8").tobytes(), "seems to have 32-bit or 64-bit tokens"),
        ((RANDOM % 65).astype("<i4").tobytes(), "seems to have 32-bit or 64-bit tokens"),
        ((2 * RANDOM + 20_000).astype("<u4").tobytes(), "seems to have 32-bit or 64-bit tokens"),  # 100,000 words
        (TEXT, "seems to have text"),
        ("Ein Bär, zwei Bären. ".encode() * 100, "seems to have text"),
        ((RANDOM % 65).astype(np.uint8).tobytes(), "seems to have 8-bit tokens"),
        (b"PK\x03\x04" + RANDOM.astype("<u2").tobytes(), "is a zip archive"),
    ],
)
def test_a_file_without_a_header_that_holds_no_uint16_tokens_is_refused(folder, content, said):
    (folder / "train.bin").write_bytes(content)
    assert said in refusal(folder, train_files="train.bin")


@pytest.mark.parametrize(
    "tokens",
    [RANDOM, RANDOM % 65, RANDOM % 4, np.repeat(RANDOM, 2), RANDOM % 256, np.zeros(4000), RANDOM % 128 + 40000],
)
def test_uint16_tokens_of_any_vocabulary_are_read(folder, tokens):
    write_shard(folder / "train.bin", tokens, magic=None)
    assert len(load(folder, train_files="train.bin").train) == 5


def test_other_files_in_the_folder_are_named(folder):
    (folder / "sub").mkdir()
    np.save(folder / "sub" / "edu_train_1.npy", np.arange(9, dtype=np.uint16))
    assert "has no file that matches *train*.bin, but edu_train_1.npy: change" in refusal(folder / "sub")


def test_more_blocks_than_there_are_and_missing_files_are_refused(folder):
    assert "has 5 blocks of 4 tokens, but 6 are needed" in refusal(folder, train=6)
    assert "has 3 blocks of 4 tokens, but 4 are needed" in refusal(folder, test=2)
    assert "no file that matches other*.bin" in refusal(folder, train_files="other*.bin")
    assert "must be >= 1" in refusal(folder, validation=0)


def test_a_shard_that_would_be_in_training_and_validation_is_refused(folder):
    assert "matches both" in refusal(folder, train_files="*.bin")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tokens_gathered_for_a_gpu_equal_those_on_the_host(folder):
    train = load(folder).train
    index = torch.tensor([4, 0, 2])
    there = train.to(torch.device("cuda"), torch.float32).batch(index.cuda())
    assert there.inputs.is_cuda
    assert torch.equal(there.inputs.cpu(), train.batch(index).inputs)
    assert torch.equal(there.targets.cpu(), train.batch(index).targets)


def test_digests_of_an_interrupted_computation_are_kept(folder, monkeypatch):
    whole, read = load(folder, root=str(folder.parent / "other")).fingerprint, []

    def digest_two(path: Path, progress: Progress) -> str:
        read.append(path)
        if len(read) == 3:
            raise KeyboardInterrupt
        return digest(path, progress)

    digest = token_shards._digest
    monkeypatch.setattr(token_shards, "_digest", digest_two)
    with pytest.raises(KeyboardInterrupt):
        load(folder)
    assert load(folder).fingerprint == whole
    assert len(read) == 4
    assert read[2] == read[3]


def test_sizes_are_declared_and_known_digests_need_no_preparation(folder):
    dataset = TokenShards(str(folder), 3, 2, 1, context=4, root=str(folder.parent / "fresh"))
    assert (dataset.declared_sizes(), dataset.is_prepared()) == ((3, 2, 1), False)
    dataset.load()
    assert dataset.is_prepared()
