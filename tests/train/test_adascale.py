"""AdaScale in the loop: the LR follows the measured gain, between none and linear scaling, the same on any topology."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_trials import EVERY_EVALUATION, SMALL, WITHOUT_BATCH_NORM, evaluations, run, run_on_ranks, task, timeless

from harness.objectives.cross_entropy import CrossEntropy
from harness.plan.errors import UserError
from harness.plan.settings import Averaging, Settings

# 64 examples an update are four base batches of 16.
ADASCALE = replace(SMALL, adascale_ratio=4)


def trained(worker: Any, folder: Any, settings: Settings, **where: Any) -> list[dict[str, Any]]:
    return evaluations(run(worker, task(folder, settings, **where)))


def test_the_lr_is_the_base_schedules_at_the_sum_of_gains_times_the_gain(worker, tmp_path):
    rows = trained(worker, tmp_path, ADASCALE, accumulation=4)
    for before, row in zip([None, *rows], rows, strict=False):
        assert 1 < row["gain"] < 4
        made = row["gain_steps"] - (before["gain_steps"] if before else 0)
        assert 2 < made < 8  # two updates an interval
        position = int(row["gain_steps"] - row["gain"])  # of the last update
        assert row["lr"] == pytest.approx(0.1 * min(1, (position + 1) / 4) * row["gain"])


def test_without_noise_the_gain_is_1_and_the_trial_is_the_one_without_scaling(worker, tmp_path, monkeypatch):
    """Every base batch the same: whatever is drawn, the same 16 examples are trained on."""
    from harness.train import learner as module

    draw = module.Learner.micro_batches

    def alike(self: Any, start: int, stop: int) -> Any:
        for step, drawn in draw(self, start, stop):
            yield step, drawn[:, :1].expand_as(drawn).contiguous()

    monkeypatch.setattr(module.Learner, "micro_batches", alike)
    measured = trained(worker, tmp_path / "gain", ADASCALE, accumulation=4, precision="float64")
    # The schedule of the base batch size is walked through one step an update, as without any scaling.
    plain = trained(worker, tmp_path / "plain", SMALL, accumulation=4, precision="float64")
    assert [row["gain"] for row in measured] == pytest.approx([1.0] * len(measured))
    assert [row["train_loss"] for row in measured] == pytest.approx([row["train_loss"] for row in plain], rel=1e-9)


def test_noise_alone_gives_the_gain_of_linear_scaling(worker, tmp_path, monkeypatch):
    """A loss whose gradient has no mean: every base batch with a random sign of its own."""
    sound = CrossEntropy.measure
    generator = torch.Generator().manual_seed(0)

    def signed(self: CrossEntropy, outputs: Any, targets: Any) -> Any:
        sign = 1 if torch.rand((), generator=generator) < 0.5 else -1
        total, count = sound(self, outputs, targets)
        return sign * total, count

    monkeypatch.setattr(CrossEntropy, "measure", signed)
    # A tiny LR: the model stays where it is, and so does the size of the gradient that the signs cancel.
    still = replace(ADASCALE, optimizer={**ADASCALE.optimizer, "lr": 1e-9}, budget_examples=64 * 60)
    still = replace(still, evaluate_every_examples=64 * 60, averaging=Averaging())
    (row,) = trained(worker, tmp_path, still, accumulation=4, precision="float64")
    assert row["gain"] > 3.0


@pytest.mark.long
def test_the_gain_is_the_same_however_base_batches_are_spread(tmp_path):
    settings = replace(WITHOUT_BATCH_NORM, adascale_ratio=4)
    one = run_on_ranks(task(tmp_path / "1", settings, accumulation=4, precision="float64"))[0]
    two = run_on_ranks(task(tmp_path / "2", settings, world=2, accumulation=2, precision="float64"))[0]
    four = run_on_ranks(task(tmp_path / "4", settings, world=4, accumulation=1, precision="float64"))[0]
    for other in (two, four):
        for a, b in zip(evaluations(one), evaluations(other), strict=True):
            for key in ("gain", "gain_steps", "lr", "train_loss"):
                assert a[key] == pytest.approx(b[key], rel=1e-10)


def test_a_resumed_trial_ends_with_the_same_bits(worker, tmp_path):
    whole = run(worker, task(tmp_path / "whole", ADASCALE, accumulation=4))
    stopped = task(tmp_path / "parts", ADASCALE, accumulation=4, execution=EVERY_EVALUATION)
    worker.start(stopped)
    assert worker.advance(0.0)[-1]["kind"] != "end"
    worker.start(stopped)  # another attempt takes the trial over, from its last checkpoint
    rows: list[dict[str, Any]] = []
    while not rows or rows[-1]["kind"] != "end":
        rows += worker.advance(1e9)
    ours, theirs = (timeless(evaluations(part))[-1] for part in (rows, whole))
    assert ours == theirs


def test_micro_batches_that_are_no_base_batches_are_refused(worker, tmp_path):
    with pytest.raises(UserError, match=r"use cluster\.per_device_batch_size=16, not 32"):
        run(worker, task(tmp_path, ADASCALE, accumulation=2))
