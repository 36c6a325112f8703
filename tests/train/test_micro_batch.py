"""per_device_batch_size=auto: the cap is found by trying, in whole batch-norm groups, and leaves nothing behind."""

from dataclasses import replace

import pytest
import torch
from small_trials import CNN, SMALL, task, topology
from torch import Tensor

from harness.launch.micro_batch import find_cap
from harness.launch.tasks import Cluster
from harness.models.bn_cnn import BnCnn
from harness.plan.errors import UserError
from harness.plan.trial import Arm, PlannedTrial, Trial
from harness.train.micro_batch import largest_that_fits
from harness.train.trainer import Execution

MEMORY = 40  # examples that Greedy can train on


class Greedy(BnCnn):
    """Runs out of memory on more than MEMORY examples, as a GPU would."""

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > MEMORY:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(images)


INLINE = Cluster(launcher="inline", gpus_per_worker=0.0, execution=Execution())
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


# -- the cap of a study ---------------------------------------------------------------------------------------------


def planned(tbs: int, model: dict[str, str]) -> PlannedTrial:
    settings = replace(SMALL, total_batch_size=tbs, model=model)
    return PlannedTrial(Trial(Arm("digits", "sgd", "none", 16, 0.1, settings), 0), topology(settings))


@pytest.mark.long
def test_one_cap_serves_every_model_and_size_of_the_plan():
    assert find_cap([planned(16, CNN), planned(128, CNN), planned(64, CNN)], INLINE) == 128
    assert find_cap([planned(128, CNN), planned(128, GREEDY)], INLINE) == 32


@pytest.mark.long
def test_a_failing_model_is_told_in_one_line():
    with pytest.raises(UserError, match=r"per_device_batch_size=auto: .*NoSuchModel") as error:
        find_cap([planned(64, {"_target_": "harness.models.bn_cnn.NoSuchModel"})], INLINE)
    assert "\n" not in str(error.value)
