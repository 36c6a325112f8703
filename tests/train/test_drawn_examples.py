"""A trial on a user's own data set, whose examples draw random numbers: the same on any topology and after a resume."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_trials import EVERY_EVALUATION, MLP, WITHOUT_BATCH_NORM, evaluations, run, run_on_ranks, task, timeless
from torch.utils.data import Dataset


class NoisyBlobs(Dataset):
    """Two clusters of points that move each time they are seen."""

    def __init__(self, size: int = 386) -> None:
        self.targets = np.arange(size) % 2

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        label = int(self.targets[index])
        return label + torch.rand(8, dtype=torch.float64).numpy() + np.random.rand(8), label


def settings_of(root: Path, worker_processes: int = 1) -> Any:
    dataset = {
        "_target_": "harness.datasets.map_style.MapStyle",
        "train": {"_target_": f"{__name__}.NoisyBlobs"},
        "validation": 70,
        "test": 60,
        "worker_processes": worker_processes,
        "root": str(root / "cache"),
    }
    return replace(WITHOUT_BATCH_NORM, dataset=dataset, model={**MLP, "features": 8, "classes": 2})


def close(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> bool:
    return all(
        row["validation"]["raw"]["loss"] == pytest.approx(other["validation"]["raw"]["loss"], rel=1e-10)
        and row["train_loss"] == pytest.approx(other["train_loss"], rel=1e-10)
        for row, other in zip(evaluations(rows), evaluations(others), strict=True)
    )


def test_readers_and_accumulation_do_not_change_what_is_trained_on(worker, tmp_path):
    one = run(worker, task(tmp_path / "1", settings_of(tmp_path), precision="float64"))
    three = run(worker, task(tmp_path / "3", settings_of(tmp_path, 3), precision="float64"))
    assert timeless(evaluations(one)) == timeless(evaluations(three))
    cut = run(worker, task(tmp_path / "cut", settings_of(tmp_path), precision="float64", accumulation=4))
    assert close(one, cut)


def test_their_number_is_no_part_of_a_trials_identity(tmp_path):
    assert task(tmp_path, settings_of(tmp_path)).trial_id == task(tmp_path, settings_of(tmp_path, 3)).trial_id


def test_a_resumed_trial_draws_what_an_uninterrupted_one_draws(worker, tmp_path):
    whole = run(worker, task(tmp_path / "whole", settings_of(tmp_path)))
    order = task(tmp_path / "cut", settings_of(tmp_path), execution=EVERY_EVALUATION)
    worker.start(order)
    before = worker.advance(0.0)
    resumed = run(worker, order)
    assert timeless(evaluations(before + resumed)) == timeless(evaluations(whole))


@pytest.mark.long
def test_two_ranks_train_on_the_same_draws_as_one(worker, tmp_path):
    one = run(worker, task(tmp_path / "1", settings_of(tmp_path), precision="float64"))
    two = run_on_ranks(task(tmp_path / "2", settings_of(tmp_path, 2), precision="float64", world=2))[0]
    assert close(one, two)
