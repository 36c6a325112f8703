"""A branch goes on where its trunk stood: same weights, optimizer state, average and next examples; alone its batch
size and LR are new."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_trials import (
    EVERY_EVALUATION,
    SMALL,
    WITHOUT_BATCH_NORM,
    evaluations,
    run,
    run_on_ranks,
    task,
    timeless,
    topology,
)

from harness.datasets.digits import Digits
from harness.plan.settings import Settings, Start
from harness.plan.trial import Arm, Trial
from harness.record.journal import read_trial
from harness.train.learner import Learner
from harness.train.worker import Worker
from harness.train.world import World

CONSTANT = {"_target_": "harness.plan.schedules.Constant"}
SGD = replace(SMALL, schedule=CONSTANT)
ADAM = replace(WITHOUT_BATCH_NORM, schedule=CONSTANT, optimizer={"_target_": "torch.optim.AdamW", "lr": 0.01})
BUFFERS = replace(ADAM, model={"_target_": "running_mean.Centred"})


def branch_of(trunk: Settings, examples: int, total_batch_size: int = 64) -> Settings:
    """The trunk's own run from there on, at another batch size."""
    kept = replace(trunk, keep_at_examples=(examples,))
    rest = trunk.budget_examples - examples
    return replace(trunk, start=Start(kept, examples), budget_examples=rest, total_batch_size=total_batch_size)


def study(folder: Path, settings: Settings, **how):
    """The order of a trial where a study would have it."""
    order = task(folder, settings, **how)
    return replace(order, folder=str(folder / "trials" / order.trial_id / order.topology.key))


@pytest.mark.parametrize("trunk", [SGD, ADAM, BUFFERS], ids=["momentum, batch norm", "Adam", "buffers"])
def test_a_branch_at_its_trunks_batch_size_is_the_trunk(worker, tmp_path, trunk):
    kept = replace(trunk, keep_at_examples=(256,))
    whole = evaluations(run(worker, study(tmp_path, kept)))
    branch = evaluations(run(worker, study(tmp_path, branch_of(trunk, 256))))
    assert [row["examples"] for row in branch] == [row["examples"] - 256 for row in whole[2:]]
    for row, other in zip(whole[2:], branch, strict=True):
        for key in ("train_loss", "validation", "lr", "diagnostics"):
            assert other[key] == row[key]


def test_a_branch_at_another_batch_size_sees_the_trunks_next_examples():
    def examples(settings: Settings, start: int, stop: int) -> list[list[int]]:
        made = Learner(settings, 3, topology(settings), where, Digits(256, 70, 50).load())
        return [sorted(drawn[0].flatten().tolist()) for _, drawn in made.micro_batches(start, stop)]

    where = World(0, 1, torch.device("cpu"))
    small = examples(SGD, 2, 6)  # from 128 examples on, across the end of a pass
    large = examples(branch_of(SGD, 128, 128), 0, 2)
    assert large == [sorted(small[0] + small[1]), sorted(small[2] + small[3])]


def test_a_branch_dropped_anywhere_ends_with_the_same_bits(worker, tmp_path):
    trunk = replace(SGD, keep_at_examples=(256,))
    for place in ("alone", "dropped"):
        run(worker, study(tmp_path / place, trunk))
    branch = branch_of(SGD, 256, 128)
    alone, dropped = (study(tmp_path / place, branch, execution=EVERY_EVALUATION) for place in ("alone", "dropped"))
    run(worker, alone)
    worker.start(dropped)
    worker.advance(0.0)
    worker.stop()
    run(worker, dropped)
    found = [timeless(read_trial(Path(order.folder)).evaluations) for order in (alone, dropped)]
    assert found[0] == found[1]


def test_a_branch_on_two_ranks_goes_on_from_a_trunk_on_one(worker, tmp_path):
    run(worker, study(tmp_path, replace(SGD, keep_at_examples=(256,)), precision="float64"))
    branch = branch_of(SGD, 256, 128)
    alone = run(worker, study(tmp_path, branch, precision="float64"))
    (shared,) = run_on_ranks(study(tmp_path, branch, world=2, precision="float64"))
    for row, other in zip(evaluations(alone), evaluations(shared), strict=True):
        assert other["train_loss"] == pytest.approx(row["train_loss"], rel=1e-9)


def test_a_branch_without_its_trunk_fails_with_the_reason(tmp_path):
    with pytest.raises(RuntimeError, match="has no saved state at 256 examples"):
        run(Worker(0, 1, "cpu", 1), study(tmp_path, branch_of(SGD, 256)))


def test_where_a_branch_starts_is_its_identity_and_what_a_trunk_keeps_is_not():
    def trial_id(settings: Settings) -> str:
        return Trial(Arm("", "", "", 1, 1.0, settings), 0).trial_id

    branch = branch_of(SGD, 256)
    again = Settings.from_json(branch.to_json())
    assert again == branch
    assert trial_id(replace(SGD, keep_at_examples=(256,))) == trial_id(SGD)
    others = [replace(SGD, budget_examples=512), branch_of(SGD, 128), branch_of(ADAM, 256)]
    assert len({trial_id(branch), *map(trial_id, others)}) == 4
