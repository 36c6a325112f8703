"""Experiments of one round run through Ray with two workers a trial: one cluster, the smallest grids.

Those whose trials differ in what a worker gets: an LR that rises, another optimizer, batch norm or data set. All of
them run on gangs of two in tests/experiments/test_gangs_of_two.py.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from one_round import RUNS, TINY, concludes
from private_ray import PrivateRay
from sweeps import command

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def cluster() -> Iterator[PrivateRay]:
    private = PrivateRay()
    private.add("only", cpus=2)
    yield private
    private.close()


@pytest.mark.parametrize("name", ["lr_range_test", "momentum_search", "bn_statistics", "split_check"])
def test_an_experiment_runs_through_ray_and_concludes(name: str, cluster: PrivateRay, tmp_path: Path):
    arguments = [f"+experiment={name}", *TINY, *RUNS[name], f"cluster.address={cluster.address}"]
    words = command(tmp_path, *arguments)
    done = subprocess.run(words, env=cluster.env, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    concludes(tmp_path / name / "s")
