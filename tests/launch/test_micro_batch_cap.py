"""per_device_batch_size=auto from the command's words to the plan: one cap per study, and the TBS never changes."""

from dataclasses import replace

import pytest
from small_trials import CNN, SMALL, topology
from test_micro_batch import GREEDY

from harness.launch.micro_batch import find_cap
from harness.launch.tasks import Cluster
from harness.plan.errors import UserError
from harness.plan.trial import Arm, PlannedTrial, Trial
from harness.train.trainer import Execution

INLINE = Cluster("inline", "local", None, 1, 0.0, 2, 1.0, 60.0, 60.0, execution=Execution())


def planned(tbs: int, model: dict[str, str]) -> PlannedTrial:
    settings = replace(SMALL, total_batch_size=tbs, model=model)
    return PlannedTrial(Trial(Arm("digits", "sgd", "none", 16, 0.1, settings), 0), topology(settings))


def test_one_cap_serves_every_model_and_size_of_the_plan():
    assert find_cap([planned(16, CNN), planned(128, CNN), planned(64, CNN)], INLINE) == 128
    assert find_cap([planned(128, CNN), planned(128, GREEDY)], INLINE) == 32


def test_a_failing_model_is_told_in_one_line():
    with pytest.raises(UserError, match=r"per_device_batch_size=auto: .*NoSuchModel") as error:
        find_cap([planned(64, {"_target_": "harness.models.bn_cnn.NoSuchModel"})], INLINE)
    assert "\n" not in str(error.value)
