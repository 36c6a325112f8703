"""An address where no Ray cluster lets us in is refused in one line after seconds; where one does, its size counts."""

import multiprocessing
import os
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing

import psutil
import pytest

from harness.launch import ray_cluster

# Another person's cluster: two CPUs, a token of its own, started and ended without us.
CLUSTER = """
import os, sys, time
folder = sys.argv[1]
with open(f"{folder}/token", "w") as file:
    file.write("0123456789abcdef" * 4)
os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=f"{folder}/token", RAY_USAGE_STATS_ENABLED="0")
import ray
ray.init("local", num_cpus=2, include_dashboard=False, _temp_dir=folder, object_store_memory=100 * 2**20)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """(address, environment that lets one in) of a running cluster."""
    folder = tmp_path_factory.mktemp("ray")
    command = [sys.executable, "-c", CLUSTER, str(folder)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    yield process.stdout.readline().strip(), {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": f"{folder}/token"}
    process.communicate()


@pytest.fixture
def environment():
    """`environment(variables)` for the rest of a test; Ray's own settings, which the command makes, are undone."""
    before = dict(os.environ)
    yield os.environ.update
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ.update(before)


def test_a_port_where_nobody_listens_is_refused(sweep):
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    refusal = sweep(f"cluster.address=127.0.0.1:{port}").refusal()
    assert f"no Ray cluster answers at cluster.address=127.0.0.1:{port}" in refusal
    assert "`ray start --head`" in refusal


def test_a_host_that_does_not_exist_is_refused(sweep):
    assert (
        "no Ray cluster answers at cluster.address=nowhere.invalid:6379"
        in sweep("cluster.address=nowhere.invalid:6379").refusal()
    )


@pytest.mark.long
def test_something_that_listens_and_never_answers_is_given_up_after_seconds(sweep, environment, monkeypatch):
    assert ray_cluster.CONNECT_S + ray_cluster.ANSWER_S < 20  # Ray's own client waits for a minute
    monkeypatch.setattr(ray_cluster, "ANSWER_S", 3.0)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        refusal = sweep(f"cluster.address=127.0.0.1:{server.getsockname()[1]}").refusal()
    assert re.search(r"answers, but cannot be joined as a Ray cluster: no answer within \d+ s", refusal)


def test_on_a_loaded_machine_an_answer_may_take_as_long_as_importing_ray_suggests(monkeypatch):
    monkeypatch.setattr(ray_cluster, "ANSWER_S", 0.1)
    ours, theirs = multiprocessing.Pipe(duplex=False)

    def answer_slowly() -> None:
        time.sleep(0.3)
        theirs.send("imported")
        time.sleep(0.4)  # longer than ANSWER_S, shorter than LOADED times the import
        theirs.send(([(2.0, 0.0)], ""))

    thread = threading.Thread(target=answer_slowly)
    thread.start()
    assert ray_cluster._received(ours) == ([(2.0, 0.0)], "")  # pyright: ignore[reportPrivateUsage]
    thread.join()


@pytest.mark.long
def test_a_cluster_that_does_not_know_our_token_is_refused(sweep, cluster, environment):
    address, _ = cluster
    environment({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64})
    assert (
        "cannot be joined as a Ray cluster: it requires its token: set RAY_AUTH_MODE=token"
        in sweep(f"cluster.address={address}").refusal()
    )


@pytest.mark.long
def test_more_workers_than_a_running_cluster_has_are_refused_before_the_study_exists(harness, cluster, environment):
    address, token = cluster
    environment(token)
    arguments = ["cluster.workers_per_trial=3", "question.total_batch_sizes=[480]"]
    grid = ["workload.evaluate_every_examples=480", "tracking=disabled", f"cluster.address={address}"]
    refusal = harness("+experiment=tbs_sweep", *arguments, *grid).refusal()
    assert "needs 3 workers" in refusal
    assert "the cluster has 2 CPUs and 0 GPUs on 1 node(s): at most 2 workers fit" in refusal


@pytest.mark.long
def test_a_running_cluster_that_is_large_enough_is_accepted(sweep, cluster, environment):
    address, token = cluster
    environment(token)
    said = sweep("cluster.workers_per_trial=2", "question.total_batch_sizes=[64]", f"cluster.address={address}")
    assert (said.code, said.err) == (0, "")
    assert "64 = 32 x 2 x 1" in said.out


@pytest.mark.long
def test_a_machine_that_is_no_node_of_the_cluster_is_told_so(sweep, cluster, environment):
    # The last test of this module: it takes this machine's node away from the cluster.
    address, token = cluster
    environment(token)
    nodes = [p for p in psutil.Process().children(recursive=True) if p.name() == "raylet"]
    assert len(nodes) == 1
    nodes[0].kill()
    while nodes[0].is_running() and nodes[0].status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert "this machine is not one of its nodes" in sweep(f"cluster.address={address}").refusal()
