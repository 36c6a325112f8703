"""Counters of other people's logs: what they count by name, and which of them are one behind or contradict others."""

import pytest

from harness.plan.batch_factors import lacks_devices, missing_factors
from harness.plan.counters import Counter, counter_of, counts_from_zero, epochs_disagree


@pytest.mark.parametrize(
    ("name", "counter"),
    [
        ("train/global_step", Counter.UPDATES), ("trainer/global_step", Counter.UPDATES), ("Step", Counter.UPDATES),
        ("iter", Counter.UPDATES), ("time/batch", Counter.UPDATES), ("Train Steps", Counter.UPDATES),
        ("train/epoch", Counter.EPOCHS), ("epoch/epoch", Counter.EPOCHS), ("samples_seen", Counter.EXAMPLES),
        ("train/num_input_tokens_seen", Counter.TOKENS), ("eval/step", None), ("num_epochs", None), ("max_steps", None),
        ("steps_per_second", None), ("learning_rate", None),
    ],
)  # fmt: skip
def test_a_counter_is_known_by_its_whole_name(name, counter):
    assert counter_of(name) is counter


@pytest.mark.parametrize(
    ("places", "is_behind"),
    [
        ([31, 63, 95], True), ([0, 1, 2], True), ([0], True), ([0, 31, 63, 95], True), ([4, 9, 14, 17], True),
        ([32, 64, 96], False), ([1, 2, 3], False), ([0, 250, 500], False), ([0.5, 1.0], False), ([7], False),
        ([100, 200, 301], False), ([], False),
    ],
)  # fmt: skip
def test_a_counter_that_is_one_behind_is_seen_from_its_places(places, is_behind):
    assert counts_from_zero(places) is is_behind


@pytest.mark.parametrize("size", [16, 24, 100, 512])
@pytest.mark.parametrize("first", [0, 1])
def test_whole_epochs_agree_while_they_run_and_not_with_another_batch_size(size, first):
    updates = range(10, 12 * 1000 // size, 7)
    examples = [update * size for update in updates]
    epochs = [float(seen // 1000 + first) for seen in examples]
    assert epochs_disagree(examples, epochs, 1000, size) is None
    assert epochs_disagree([4 * seen for seen in examples], epochs, 1000, 4 * size) is not None


def test_a_factor_counts_once_for_all_its_names():
    settings = {"bs": 8, "world_size": 4, "num_gpus": 4, "train.grad_accum": 2, "num_workers": 6, "devices": "auto"}
    assert missing_factors("bs", settings, ()) == ["train.grad_accum", "world_size"]
    assert missing_factors("bs*train.grad_accum*num_gpus", settings, ()) == []
    assert missing_factors("bs*4", settings, ["train.grad_accum"]) == []
    assert missing_factors("bs", settings, ["train.grad_accum", "world_size", "num_gpus"]) == []
    assert missing_factors("train_batch_total", {"accum_freq": True}, ()) == []
    assert lacks_devices("per_gpu_train_batch_size*accum_steps")
    assert not lacks_devices("per_gpu_train_batch_size*accum_steps*1")
    assert not lacks_devices("batch_size")
