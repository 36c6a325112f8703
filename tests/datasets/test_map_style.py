"""A user's map-style data set gives the same bits however it is read, and what cannot is refused in one line."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from own_data import Points
from torch import Tensor

from harness.datasets.examples import Batch, DrawnExamples, Splits, TensorExamples
from harness.datasets.map_style import MapStyle
from harness.plan.errors import UserError
from harness.plan.instantiate import instantiate
from harness.train.loader import Loader

CPU = torch.device("cpu")


def spec_of(root: Path, kind: str = "Points", arguments: dict[str, Any] | None = None, **given: Any) -> dict[str, Any]:
    train = {"_target_": f"own_data.{kind}", **(arguments or {})}
    carved = {"validation": 20, "test": 10}
    return {"_target_": "harness.datasets.map_style.MapStyle", "train": train, "root": str(root), **carved, **given}


def load(root: Path, *kind: Any, **given: Any) -> Splits:
    return instantiate(spec_of(root, *kind, **given)).load()


def refusal(root: Path, *kind: Any, **given: Any) -> str:
    with pytest.raises(UserError) as error:
        load(root, *kind, **given)
    assert "\n" not in str(error.value)
    return str(error.value)


def drawn(splits: Splits, index: list[int], epoch: list[int], seed: int = 3) -> Batch:
    loader = Loader(splits.train.to(CPU, torch.float64), CPU, seed)
    return loader.batch(torch.tensor(index), torch.tensor(epoch))


def tensor(tree: Any) -> Tensor:
    assert isinstance(tree, Tensor)
    return tree


def test_an_example_is_a_function_of_seed_epoch_and_index_whoever_reads_it(tmp_path):
    one, three = (load(tmp_path, worker_processes=number) for number in (1, 3))
    assert one.fingerprint == three.fingerprint
    index, epoch = [5, 0, 80, 5, 33, 7, 8], [0, 0, 0, 1, 1, 1, 4]
    together = drawn(one, index, epoch)
    assert torch.equal(tensor(together.inputs), tensor(drawn(three, index, epoch).inputs))
    alone = [tensor(drawn(three, [i], [e]).inputs) for i, e in zip(index, epoch, strict=True)]
    assert torch.equal(tensor(together.inputs), torch.cat(alone))
    assert not torch.equal(tensor(together.inputs)[0], tensor(together.inputs)[3])  # the same example, another epoch
    assert not torch.equal(tensor(together.inputs), tensor(drawn(one, index, epoch, seed=4).inputs))


def test_training_draws_ahead_in_the_order_of_the_stream(tmp_path):
    splits = load(tmp_path)
    loader = Loader(splits.train, CPU, 3)
    indices, epochs = torch.randperm(90).view(15, 6), torch.arange(15)[:, None].expand(15, 6)
    with loader.ahead(indices, epochs):
        for index, epoch in zip(indices, epochs, strict=True):
            expected = drawn(splits, index.tolist(), epoch.tolist())
            assert torch.equal(tensor(loader.batch(index, epoch).inputs), tensor(expected.inputs).float())


def test_evaluations_draw_the_same_every_time_and_transform_for_themselves(tmp_path):
    transforms = {"transform": [lambda x: x + 1000], "evaluation_transform": lambda x: -x}
    splits = MapStyle(Points(120), 20, 10, root=str(tmp_path), **transforms).load()
    first, again = (tensor(splits.validation.batch(torch.arange(20)).inputs) for _ in range(2))
    assert torch.equal(first, again)
    assert (first <= 0).all()
    assert (tensor(splits.train.batch(torch.arange(4)).inputs) <= 0).all()  # as batch-norm statistics read it
    assert (tensor(drawn(splits, [0, 1], [0, 0]).inputs) >= 1000).all()


def test_the_carved_splits_are_stratified_and_follow_the_split_seed_alone(tmp_path):
    splits = load(tmp_path)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (90, 20, 10)
    assert tensor(splits.validation.batch(torch.arange(20)).targets).sum() == 10
    other = load(tmp_path, split_seed=1)
    assert other.fingerprint != splits.fingerprint == load(tmp_path).fingerprint
    assert len(load(tmp_path, "Points", {"labelled": False}).validation) == 20


def test_columns_are_chosen_and_sequences_padded_to_the_longest_of_a_batch(tmp_path):
    named = {"inputs": ["point", "tokens"], "targets": "label", "padding": {"tokens": 0}}
    splits = load(tmp_path, "Columns", worker_processes=3, **named)
    rows = splits.validation.batch(torch.arange(20))
    inputs: Any = rows.inputs
    assert list(inputs) == ["point", "tokens"]
    assert inputs["tokens"].sum(1).tolist() == [2 + 3 * label for label in tensor(rows.targets).tolist()]
    assert inputs["tokens"].shape == (20, 5)
    one = load(tmp_path, "Columns", inputs="tokens", targets="label", padding={"tokens": 0})
    assert tensor(one.train.batch(torch.arange(9)).inputs).shape == (9, 5)


def test_a_resident_data_set_has_the_bits_of_one_that_is_read(tmp_path):
    read, resident = (load(tmp_path, "Points", {"noisy": False}, resident=where) for where in (False, True))
    assert isinstance(read.train, DrawnExamples)
    assert isinstance(resident.train, TensorExamples)
    assert read.fingerprint == resident.fingerprint
    index = torch.tensor([4, 1, 60])
    for one, other in zip(read.train.batch(index), resident.train.to(CPU, torch.float32).batch(index), strict=True):
        assert torch.equal(tensor(one), tensor(other))


def test_what_could_not_be_the_same_everywhere_is_refused_with_the_alternative(tmp_path):
    assert "without random access" in refusal(tmp_path, "Stream")
    assert "dataset=token_shards" in refusal(tmp_path, "Stream")
    assert "not from a generator of its own" in refusal(tmp_path, "OwnGenerator")
    assert "resident=true would keep one draw of dataset.train" in refusal(tmp_path, resident=True)


def test_wrong_arguments_and_examples_are_refused_by_name(tmp_path):
    assert "part inputs[text] is a str: tokenise it" in refusal(tmp_path, "Columns", targets="label")
    assert "has no column 'lable': choose one of point, tokens" in refusal(tmp_path, "Columns", targets="lable")
    tokens = {"inputs": ["tokens"], "targets": "label"}
    assert "set dataset.padding.tokens to the value that fills" in refusal(tmp_path, "Columns", **tokens)
    assert "leave them null" in refusal(tmp_path, inputs="point")
    assert "too few to take 200 for validation and 10 for test" in refusal(tmp_path, validation=200)
    assert "but the splits have [90, 20, 10] examples" in refusal(tmp_path, sizes=[91, 20, 10])
    assert "dataset.worker_processes must be >= 1, not 0" in refusal(tmp_path, worker_processes=0)
    assert "dataset.transform must be callable" in refusal(tmp_path, transform="flip")
    assert "a number of examples >= 1, not 0" in refusal(tmp_path, test=0)
    assert "own_data.py, line" in refusal(tmp_path, "Broken", {"size": 30}, validation=2, test=2)


def test_a_file_opened_at_the_first_read_is_read_by_the_process_that_opened_it(tmp_path):
    splits = load(tmp_path, "HandleOfOneProcess")
    assert len(tensor(splits.train.batch(torch.arange(40)).targets)) == 40


def test_a_killed_reader_is_named_and_the_next_read_starts_others(tmp_path):
    splits, before = load(tmp_path, worker_processes=1), {*psutil.Process().children()}
    splits.train.batch(torch.arange(2))
    (reader,) = {*psutil.Process().children()} - before
    reader.send_signal(signal.SIGKILL)
    with pytest.raises(RuntimeError, match="a process that reads the data set was killed"):
        splits.train.batch(torch.arange(2))
    assert len(tensor(splits.train.batch(torch.arange(2)).targets)) == 2


def test_readers_end_with_a_process_that_is_killed(tmp_path):
    splits = load(tmp_path, worker_processes=1)
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        splits.train.batch(torch.arange(2))
        (reader,) = psutil.Process().children()
        os.write(write, str(reader.pid).encode())
        time.sleep(60)
    reader = psutil.Process(int(os.read(read, 32)))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    deadline = time.monotonic() + 20
    while reader.is_running() and reader.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "a reader outlived the process it reads for"
        time.sleep(0.05)


def test_declared_sizes_need_no_data_set_and_building_is_remembered(tmp_path):
    record = tmp_path / "record"
    arguments = {"_target_": "own_data.build_only_once", "record": str(record)}
    dataset = instantiate(spec_of(tmp_path / "cache", train=arguments, sizes=[30, 20, 10]))
    assert (dataset.declared_sizes(), dataset.is_prepared(), record.exists()) == ((30, 20, 10), False, False)
    dataset.load()
    assert record.read_text() == "built\n"
    assert dataset.is_prepared()


def test_own_random_numbers_are_left_alone_by_loading_and_reading(tmp_path):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    load(tmp_path).train.batch(torch.arange(8))
    assert torch.equal(torch.rand(3), expected)
