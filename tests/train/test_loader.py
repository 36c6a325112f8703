"""Data larger than memory: gathered ahead in order, the same batches as resident data, its waiting measured."""

import threading
import time
from dataclasses import dataclass, field, replace
from typing import Self

import pytest
import torch
from small_trials import DIGITS, SMALL, evaluations, run, run_on_ranks, task, timeless, topology
from torch import Tensor

from harness.datasets.digits import Digits
from harness.datasets.examples import Batch, Splits, TensorExamples
from harness.plan.instantiate import instantiate
from harness.train.learner import Learner
from harness.train.loader import AHEAD, THREADS, Loader, gathering_threads
from harness.train.world import World

CPU = torch.device("cpu")


@dataclass(frozen=True)
class OnHost(TensorExamples):
    """Digits as if they were larger than the device's memory; a gather takes `seconds`."""

    seconds: float = 0.0

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        return replace(self, inputs=self.inputs.to(dtype))

    def gather(self, index: Tensor, pinned: bool) -> Tensor:
        time.sleep(self.seconds)
        return self.inputs.index_select(0, index)

    def deliver(self, gathered: Tensor, index: Tensor) -> Batch:
        return Batch(gathered, self.targets.index_select(0, index))


@dataclass(frozen=True)
class Watched(OnHost):
    """Tells who gathered what."""

    gathered: list[tuple[list[int], str]] = field(default_factory=list)

    def gather(self, index: Tensor, pinned: bool) -> Tensor:
        self.gathered.append((index.tolist(), threading.current_thread().name))
        return super().gather(index, pinned)


class StreamedDigits(Digits):
    """`seconds`: of a gather."""

    def __init__(self, seconds: float = 0.0, **sizes: int) -> None:
        super().__init__(**sizes)
        self.seconds = seconds

    def load(self) -> Splits:
        splits = super().load()
        batch = splits.train.batch(torch.arange(len(splits.train)))
        return replace(splits, train=OnHost(*batch, seconds=self.seconds))


STREAMED = replace(SMALL, dataset={**DIGITS, "_target_": f"{__name__}.StreamedDigits"})


FIRST = torch.zeros(5, dtype=torch.int64)  # the epoch of five examples


def watched() -> Watched:
    return Watched(torch.arange(100.0)[:, None], torch.arange(100))


def test_batches_arrive_in_order_whoever_gathered_them():
    loader = Loader(watched(), CPU)
    indices = torch.randperm(100).view(20, 5)
    with loader.ahead(indices, [FIRST] * 20):
        batches = [loader.batch(index, FIRST) for index in indices]
    for index, batch in zip(indices, batches, strict=True):
        assert torch.equal(batch.inputs[:, 0], index.float())
        assert torch.equal(batch.targets, index)


def test_a_bounded_number_of_batches_is_gathered_ahead_by_threads_of_their_own():
    examples = watched()
    loader = Loader(examples, CPU)
    indices = torch.arange(100).view(20, 5)
    with loader.ahead(indices, [FIRST] * 20):
        loader.batch(indices[0], FIRST)
        time.sleep(0.1)
        assert len(examples.gathered) == 1 + AHEAD
    assert all(name.startswith("loader") for _, name in examples.gathered)
    assert loader.batch(indices[7], FIRST).targets.tolist() == indices[7].tolist()  # what lay ready is forgotten
    assert examples.gathered[-1] == (indices[7].tolist(), threading.current_thread().name)


def test_an_error_of_the_data_reaches_training():
    loader = Loader(watched(), CPU)
    with pytest.raises(IndexError), loader.ahead(torch.tensor([[100]]), [FIRST[:1]]):
        loader.batch(torch.tensor([100]), FIRST[:1])


def test_examples_that_live_on_the_device_are_not_waited_for():
    loader = Loader(TensorExamples(torch.zeros(4, 1), torch.zeros(4)), CPU)
    with loader.ahead(torch.arange(4)[None], [FIRST[:4]]):
        assert len(loader.batch(torch.arange(4), FIRST[:4]).targets) == 4
    assert not loader.streams
    assert loader.read_waited_s() == 0.0


def test_a_streamed_trial_has_the_numbers_of_a_resident_one(worker, tmp_path):
    resident = evaluations(run(worker, task(tmp_path / "resident")))
    for world, accumulation in ((1, 1), (1, 4), (2, 1)):
        order = task(tmp_path / f"{world}-{accumulation}", STREAMED, world=world, accumulation=accumulation)
        rows = run_on_ranks(order)[0] if world > 1 else run(worker, order)
        for streamed, row in zip(evaluations(rows), resident, strict=True):
            assert 0 <= streamed.pop("loader_fraction") <= 1
            assert "loader_fraction" not in row
            if (world, accumulation) == (1, 1):
                assert timeless(streamed) == timeless(row)
            assert streamed["train_loss"] == pytest.approx(row["train_loss"], rel=0.1)


def test_the_loader_bound_fraction_of_training_is_measured(worker, tmp_path):
    slow = replace(STREAMED, dataset={**STREAMED.dataset, "seconds": 0.4})  # far more than a loaded machine computes
    fractions = [
        [row["loader_fraction"] for row in evaluations(run(worker, task(tmp_path / name, settings)))]
        for name, settings in (("slow", slow), ("fast", STREAMED))
    ]
    assert min(fractions[0]) > 0.5
    assert max(fractions[1]) < min(fractions[0])


def test_what_the_warm_up_waited_for_is_no_part_of_it():
    made = Learner(STREAMED, 0, topology(STREAMED), World(0, 1, CPU), instantiate(STREAMED.dataset).load())
    made.warm_up()
    assert made.loader.read_waited_s() == 0.0


def test_on_a_gpu_a_loader_has_a_thread_for_every_cpu_of_its_worker():
    gpu = torch.device("cuda", 0)
    assert [gathering_threads(gpu, cpus) for cpus in (1, 2, 16)] == [THREADS, 2, 16]
    assert gathering_threads(CPU, 16) == THREADS  # there the other CPUs compute
