"""The standard library as text: every machine has it, each byte is predicted once, and validation text is unseen."""

import pytest
import torch

from harness.datasets.stdlib_text import StdlibText, stdlib_modules
from harness.plan.errors import UserError

INDEX = torch.arange(60)


def text_of(examples) -> bytes:
    inputs, targets = examples.batch(torch.arange(len(examples)))
    return bytes(inputs.flatten().tolist()) + bytes(targets[-1, -1:].tolist())


def test_targets_are_the_next_bytes_and_blocks_continue_each_other():
    train = StdlibText(context=64, train=200, validation=20, test=20).load().train
    inputs, targets = train.batch(INDEX)
    assert inputs.shape == targets.shape == (60, 64)
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert torch.equal(inputs[1:, 0], targets[:-1, -1])


def test_splits_have_the_sizes_asked_for_and_share_no_module():
    splits = StdlibText(context=64, train=3000, validation=500, test=600).load()
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (3000, 500, 600)
    texts = [text_of(part) for part in (splits.train, splits.validation, splits.test)]
    openings = [path.read_bytes()[:500] for path in stdlib_modules()]
    found = [[text.count(opening) for text in texts] for opening in openings if len(opening) == 500]
    assert all(sum(counts) <= 1 for counts in found)
    assert all(sum(counts) for counts in zip(*found, strict=True))  # each split holds some


def test_the_split_follows_its_seed_alone():
    def small(split_seed: int) -> str:
        return StdlibText(context=32, train=50, validation=10, test=10, split_seed=split_seed).load().fingerprint

    assert small(0) == small(0)
    assert small(0) != small(1)


def test_the_default_sizes_fit_this_python():
    splits = StdlibText().load()
    assert len(splits.train) == 16384


def test_test_suites_packages_and_build_files_are_left_out():
    names = [path.name for path in stdlib_modules()]
    assert {"argparse.py", "typing.py"} <= set(names)
    assert names == sorted(names)
    assert not [name for name in names if name.startswith(("_sysconfigdata", "test", "sitecustomize"))]


def test_more_text_than_there_is_and_empty_splits_are_refused():
    with pytest.raises(UserError, match=r"reduce dataset\.train"):
        StdlibText(train=10**6).load()
    with pytest.raises(UserError, match="must be >= 1"):
        StdlibText(test=0)
