"""Nodes, workers, gangs and drivers die at random during a sweep: it ends with the bits of one left alone."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from private_ray import PrivateRay, kill
from sweeps import SMALL, Sweep, finish, inline, start

pytestmark = [pytest.mark.long, pytest.mark.timeout(500)]

# Trials of one worker (TBS 64) and of two (TBS 128), for a few seconds each: nobody meets the target.
MIXED = [
    *SMALL,
    "lr_scaling=linear",
    "question.total_batch_sizes=[64,128]",
    "workload.target.value=0.9999",
    "workload.budget={epochs: 20}",
    "cluster.workers_per_trial=null",
    "cluster.per_device_batch_size=64",
    "cluster.checkpoint_every_s=0.5",
    "cluster.max_failures=30",
]
TRIALS = 8
SEEDS = f"seeds=[{','.join(map(str, range(TRIALS // 2)))}]"

PLACEMENT_GROUPS = """
import sys, ray
ray.init(sys.argv[1], log_to_driver=False)
print([state["state"] for state in ray.util.placement_group_table().values() if state["state"] != "REMOVED"])
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[PrivateRay]:
    """Three nodes; the head, where drivers run, is never lost."""
    private = PrivateRay()
    for name in ("head", "a", "b"):
        private.add(name)
    yield private
    private.close()


def begin(cluster: PrivateRay, output: Path) -> "subprocess.Popen[str]":
    return start(
        output, *MIXED, SEEDS, f"cluster.address={cluster.address}", env={**cluster.env, "TMPDIR": str(output)}
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found = inline(tmp_path_factory.mktemp("calm"), *MIXED, SEEDS)
    assert found.code == 0, found.out + found.err
    assert {key.split("/")[-1] for key in found.records()} == {"cpu-w1-b64-a1-float32", "cpu-w2-b64-a1-float32"}
    return found.science()


def as_if_left_alone(found: Sweep, undisturbed: dict[str, Any]) -> None:
    """Every trial once, with the same bits, and no half-written file."""
    assert found.code == 0, found.out + found.err
    assert len(found.records()) == TRIALS
    assert found.science() == undisturbed
    assert not [path for path in found.folder.rglob("*") if path.name.endswith(".tmp")]
    assert not list(found.folder.glob("trials/*/*/checkpoint"))


def test_nodes_lost_at_ten_random_moments_and_replaced_cost_nothing_but_time(cluster, undisturbed, tmp_path):
    moments, lost, heard = random.Random(6), 0, ""
    while lost < 10:  # on a fast machine a sweep is over before
        output = tmp_path / f"after_{lost}"
        output.mkdir()
        process = begin(cluster, output)
        wait_for(lambda: list(output.glob("*/s/trials/*/*/events.*")))  # noqa: B023
        while process.poll() is None and lost < 10:
            time.sleep(moments.uniform(0.0, 2.0))
            name = moments.choice("ab")
            cluster.lose(name)
            lost += 1
            time.sleep(moments.uniform(0.0, 2.0))
            cluster.add(name)
        found = finish(process, output)
        as_if_left_alone(found, undisturbed)
        heard += found.out
    assert "was lost: its trials resume elsewhere" in heard
    assert "has joined: 1 CPUs" in heard
    assert "retrying" in heard


def wait_for(happens: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_sweep_whose_trials_fit_no_longer_says_so_and_goes_on_when_the_node_is_back(cluster, tmp_path):
    wide = ["seeds=[0]", "question.total_batch_sizes=[192]", "workload.exact_grid=false", "cluster.node_wait_s=2"]
    arguments = [*MIXED, *wide, f"cluster.address={cluster.address}"]
    process = start(tmp_path, *arguments, env=cluster.env)
    wait_for(lambda: list(tmp_path.glob("*/s/trials/*/*/checkpoint/*.pt")))
    cluster.lose("b")
    try:
        found = finish(process, tmp_path)
        assert found.code == 75, found.out + found.err
        assert "a trial needs 3 workers, but for 2 s the 2 remaining node(s) have had room for at most 2" in found.out
        refused = finish(start(tmp_path, *arguments, env=cluster.env), tmp_path)
        assert refused.code == 2
        assert "needs 3 workers" in refused.err
    finally:
        cluster.add("b")
    resumed = finish(start(tmp_path, *arguments, env=cluster.env), tmp_path)
    assert resumed.code == 0, resumed.out + resumed.err
    assert {record["outcome"] for record in resumed.records().values()} == {"censored"}


def test_random_kills_of_workers_gangs_and_drivers_leave_the_same_bits_and_nothing_else(cluster, undisturbed, tmp_path):
    moments = random.Random(7)
    kills = dict.fromkeys(("worker", "gang", "driver"), 0)
    process = begin(cluster, tmp_path)
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(moments.uniform(0.5, 4.0))
        what = moments.choice(("worker", "worker", "gang", "driver"))
        ranks, alone = cluster.workers("RankActor"), cluster.workers("TrialTrainable")
        if what == "driver" and kills["driver"] < 4:
            process.send_signal(signal.SIGKILL)
            process.wait()
            process = begin(cluster, tmp_path)
        elif what == "gang" and ranks:
            kill(ranks)
        elif what == "worker" and (ranks or alone):
            kill([moments.choice([*ranks, *alone])])
        else:
            continue
        kills[what] += 1
    found = finish(process, tmp_path)
    as_if_left_alone(found, undisturbed)
    assert min(kills.values()) >= 2, kills
    assert not list(tmp_path.glob("harness-*"))  # what killed drivers left is cleared by the next one
    asked = subprocess.run(
        [sys.executable, "-c", PLACEMENT_GROUPS, cluster.address], env=cluster.env, capture_output=True, text=True
    )
    assert asked.stdout.strip() == "[]", asked.stdout + asked.stderr
    gone = time.monotonic() + 20
    while (left := [*cluster.workers("RankActor"), *cluster.workers("TrialTrainable")]) and time.monotonic() < gone:
        time.sleep(0.5)
    assert not left
    assert not [child for child in psutil.Process().children() if "-m harness" in " ".join(child.cmdline())]
