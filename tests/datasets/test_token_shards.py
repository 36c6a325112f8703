"""Token shards are read in their real formats, in place, and a damaged one is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.datasets.examples import Splits
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
    assert "(3 of 3)" in capfd.readouterr().err
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
