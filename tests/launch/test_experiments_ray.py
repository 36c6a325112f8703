"""Experiments of one round run through Ray with two workers a trial, with the smallest grids.

Those whose trials differ in what a worker gets: an LR that rises, another optimizer, batch norm or data set. All of
them run on gangs of two in tests/experiments/test_gangs_of_two.py.
"""

from pathlib import Path

import pytest
from one_round import RUNS, TINY, concludes
from sweeps import finish, start

pytestmark = pytest.mark.long


@pytest.mark.parametrize("name", ["lr_range_test", "momentum_search", "bn_statistics", "split_check"])
def test_an_experiment_runs_through_ray_and_concludes(name: str, tmp_path: Path):
    done = finish(start(tmp_path, f"+experiment={name}", *TINY, *RUNS[name], "cluster.cpus=2"), tmp_path)
    assert done.code == 0, done.out + done.err
    concludes(tmp_path / name / "s")
