"""The loop asks the device for nothing between two evaluations: updates are queued, never waited for."""

from dataclasses import replace

import pytest
import torch
from small_trials import SMALL, WITHOUT_BATCH_NORM, topology
from torch.profiler import ProfilerActivity, profile

from harness.datasets.digits import Digits
from harness.train.learner import Learner
from harness.train.world import World

# What moves a tensor's value to the host; on a GPU each of them waits for all work queued before it.
WAITS = {"aten::item", "aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero", "aten::equal"}


def operations(settings, precision: str = "float32", accumulation: int = 1) -> set[str]:
    """Names of the operations of 4 updates, the last one before an evaluation among them."""
    where = topology(settings, accumulation=accumulation, precision=precision)
    made = Learner(settings, 0, where, World(0, 1, torch.device("cpu")), Digits(256, 70, 50).load())
    made.warm_up()
    shares = torch.zeros(4, dtype=torch.float64)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for step, examples in made.micro_batches(0, 4):
            shares[step] = made.update(step, examples, last=step == 3)
    return {event.key for event in seen.key_averages()}


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_an_update_waits_for_no_value(precision, clip_norm):
    assert not operations(replace(SMALL, clip_norm=clip_norm), precision) & WAITS


def test_accumulated_updates_wait_for_no_value():
    assert not operations(WITHOUT_BATCH_NORM, accumulation=4) & WAITS


def test_the_wait_that_fp16_needs_is_seen_by_this_test():
    assert "aten::item" in operations(WITHOUT_BATCH_NORM, "fp16")
