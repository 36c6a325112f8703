"""per_device_batch_size=auto: the cap is found by trying, in whole batch-norm groups, and leaves nothing behind."""

from dataclasses import replace

import pytest
import torch
from small_trials import CNN, SMALL, task
from torch import Tensor

from harness.models.bn_cnn import BnCnn
from harness.plan.errors import UserError
from harness.train.micro_batch import largest_that_fits

MEMORY = 40  # examples that Greedy can train on


class Greedy(BnCnn):
    """Runs out of memory on more than MEMORY examples, as a GPU would."""

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > MEMORY:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(images)


GREEDY = {"_target_": f"{__name__}.Greedy"}


@pytest.mark.parametrize(
    ("largest", "quantum", "memory", "found"),
    [(512, 16, 512, 512), (512, 16, 511, 256), (512, 16, 16, 16), (96, 32, 90, 32), (7, 1, 4, 3), (48, 16, 40, 16)],
)
def test_the_largest_half_that_fits_is_found_in_whole_groups(largest, quantum, memory, found):
    assert largest_that_fits(largest, quantum, lambda size: size <= memory) == found


def test_where_nothing_fits_it_says_what_to_do():
    with pytest.raises(UserError, match="not even a micro-batch of 16 examples fits"):
        largest_that_fits(512, 16, lambda size: False)


def test_a_worker_finds_its_cap_with_the_trials_own_model_and_trains_on(worker, tmp_path):
    assert worker.largest_micro_batch(task(tmp_path, replace(SMALL, model=GREEDY)), 1.0) == 32
    assert worker.largest_micro_batch(task(tmp_path, replace(SMALL, model=CNN)), 1.0) == 64
    assert list(tmp_path.iterdir()) == []


def test_an_error_that_is_not_of_memory_is_not_taken_for_one(worker, tmp_path):
    with pytest.raises(Exception, match="does_not_exist"):
        worker.largest_micro_batch(task(tmp_path, replace(SMALL, model={**CNN, "does_not_exist": 1})), 1.0)
