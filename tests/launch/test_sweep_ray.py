"""Through Ray Tune: the numbers of the inline launcher, DDP gangs, kills and retries."""

import subprocess
import sys
import time

import psutil
import pytest
from sweeps import SMALL, finish, inline, start, sweep, worker_pids


@pytest.fixture(scope="module")
def ray_sweep(tmp_path_factory):
    return sweep(tmp_path_factory.mktemp("ray"), *SMALL)


@pytest.mark.long
def test_a_sweep_through_ray_has_the_bits_of_the_inline_one(ray_sweep, tmp_path):
    assert ray_sweep.code == 0, ray_sweep.err
    assert ray_sweep.science() == inline(tmp_path, *SMALL).science()


@pytest.mark.long
def test_nothing_of_ray_reaches_the_screen(ray_sweep):
    assert (ray_sweep.code, ray_sweep.err) == (0, "")
    lines = ray_sweep.out.splitlines()
    assert not [line for line in lines if "ray" in line.lower() and not line.startswith(("study ", "report: "))]
    assert [line for line in lines if line.startswith("[12/12]")]


@pytest.mark.long
def test_a_killed_worker_of_a_gang_costs_a_retry_and_not_the_trial(tmp_path):
    arguments = [*SMALL, "seeds=[0]", "question.total_batch_sizes=[128]", "lr_scaling=linear"]
    # The target cannot be met: the trial runs its whole budget, long enough to be hit.
    long = [
        "workload.target.value=0.9999",
        "workload.budget={epochs: 10}",
        "cluster.workers_per_trial=2",
        "cluster.checkpoint_every_s=0",
    ]
    undisturbed = inline(tmp_path, *arguments, *long, study="calm")
    process = start(tmp_path, *arguments, *long, study="hit")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        journals = list(tmp_path.glob("*/hit/trials/*/*/events.1.jsonl"))
        if journals and journals[0].read_text().count('"evaluation"') >= 5:
            break
        time.sleep(0.05)
    victims = worker_pids(process.pid, "RankActor")
    assert len(victims) == 2
    psutil.Process(victims[1]).kill()
    hit = finish(process, tmp_path, study="hit")
    assert hit.code == 0, hit.out + hit.err
    assert "retrying" in hit.out
    assert "no reason given" not in hit.out
    assert {record["attempt"] for record in hit.records().values()} == {2}
    assert hit.science() == undisturbed.science()


NICENESS = """
import os
from harness.launch.ray_cluster import ray_cluster
from harness.launch.tasks import Cluster
from harness.train.trainer import Execution
with ray_cluster(Cluster(launcher="ray", cpus=1, gpus_per_worker=0.0, execution=Execution())):
    import ray
    print(os.nice(0), ray.get(ray.remote(lambda: os.nice(0)).remote()))
"""


@pytest.mark.long
def test_trials_are_no_nicer_than_the_command_that_starts_them():
    done = subprocess.run([sys.executable, "-c", NICENESS], capture_output=True, text=True, timeout=120)
    ours, theirs = done.stdout.split()
    assert theirs == ours, done.stderr
