"""Every experiment of one round runs through Ray with two workers a trial: one cluster, the smallest grids."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from private_ray import PrivateRay
from sweeps import command

pytestmark = pytest.mark.long

TINY = [
    "tracking=disabled",
    "seeds=[0]",
    "cluster.workers_per_trial=2",
    "question.total_batch_sizes=[256]",
    "workload.budget={epochs: 1}",
    "cluster.timing_min_steps=2",
    "cluster.timing_min_s=0",
]
SHORT = ["question.updates=10", "question.evaluations=10"]
RUNS = {
    "lr_range_test": [*SHORT, "question.ramp=linear"],
    "momentum_range_test": SHORT,
    "momentum_search": ["question.momenta=[0.8,0.9,0.95]"],
    "lr_grid": ["question.lrs=[0.1,0.3,1.0]"],
    "fixed_budget": ["question.total_batch_sizes=[128,256]", "question.epochs_at_smallest=0.5", "lr_scaling=linear"],
    "cyclical": [],
    "one_cycle": [],
    "beta_scaling": [],
    "beta2_scaling": [
        "question.total_batch_sizes=[32]",
        "workload.budget={examples: 1024}",
        "schedule.warmup={examples: 512}",
    ],
    "bn_span": [],
    "bn_statistics": [],
    "ema": [],
    "warmup": ["workload.budget={epochs: 4}"],
    "weight_decay_timescale": [],
    "base_lr_sensitivity": ["question.factors=[1.0,2.0]", "lr_scaling.rules=[sqrt,linear]"],
    "split_check": ["question.split_seeds=[0,1]"],
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[PrivateRay]:
    private = PrivateRay()
    private.add("only", cpus=2)
    yield private
    private.close()


@pytest.mark.parametrize("name", RUNS)
def test_an_experiment_runs_on_gangs_of_two_and_concludes(name: str, cluster: PrivateRay, tmp_path: Path):
    arguments = [f"+experiment={name}", *TINY, *RUNS[name], f"cluster.address={cluster.address}"]
    words = command(tmp_path, *arguments)
    done = subprocess.run(words, env=cluster.env, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / name / "s"
    topologies = {path.parent.name for path in folder.glob("trials/*/*/record.json")}
    assert topologies
    assert all("-w2-" in topology for topology in topologies)
    assert list(folder.glob("tables/*.csv"))
    assert "</h2>" in (folder / "report.html").read_text()
