"""Who can reach a running sweep: its owner, with the token, from this machine."""

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from sweeps import SMALL, sweep

from harness.launch.gang import ProcessGang
from harness.launch.ray_cluster import token_warning
from harness.launch.ray_probe import SHORT_WAITS

# The embedded cluster as the driver starts it, held open while the test knocks.
HOST = """
import sys
from dataclasses import replace
from harness.launch.ray_cluster import ray_cluster
from harness.launch.tasks import Cluster
from harness.train.trainer import Execution
with ray_cluster(Cluster(launcher="ray", cpus=1, gpus_per_worker=0.0, execution=Execution())) as scratch:
    import ray
    print(ray.get_runtime_context().gcs_address, scratch, flush=True)
    sys.stdin.read()
"""
SECRETS = {"AWS_SECRET_ACCESS_KEY": "CANARY-a", "MYTOKEN": "CANARY-b", "DATABASE": "db://me:CANARY-c@host/x"}
GUEST = """
import sys, ray
ray.init(sys.argv[1], log_to_driver=False)
print("IN", ray.cluster_resources())
"""


@pytest.fixture(scope="module")
def host():
    """(process, address, scratch folder) of an embedded cluster."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOST],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **SECRETS, "ORDINARY": "kept"},
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    address, scratch = line.split()
    yield process, address, Path(scratch)
    process.communicate(timeout=60)
    assert not Path(scratch).exists()


def knock(address: str, home: Path, **environment: str) -> bool:
    """Whether a process with this environment gets in, as patient as our own probe: Ray's client tries for long."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    ours = {**kept, **SHORT_WAITS, "HOME": str(home), **environment}
    guest = [sys.executable, "-c", GUEST, address]
    try:
        done = subprocess.run(guest, env=ours, capture_output=True, text=True, timeout=40)
    except subprocess.TimeoutExpired:
        return False
    return done.stdout.startswith("IN")


@pytest.mark.long
def test_only_who_has_the_token_gets_into_the_embedded_cluster(host, tmp_path):
    _, address, scratch = host
    other = tmp_path / "other"
    other.write_text("f" * 64)
    assert not knock(address, tmp_path, RAY_AUTH_MODE="disabled")
    assert not knock(address, tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(other))
    assert knock(address, tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(scratch / "token"))


@pytest.mark.long
def test_the_token_is_its_owners_alone_and_in_no_command_line(host):
    process, _, scratch = host
    assert stat.S_IMODE(scratch.stat().st_mode) == 0o700
    assert stat.S_IMODE((scratch / "token").stat().st_mode) == 0o600
    token = (scratch / "token").read_text()
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) > 2
    assert not [child for child in family if token in " ".join(child.cmdline())]


@pytest.mark.long
def test_no_process_of_ray_and_no_file_of_it_has_a_secret(host):
    process, _, scratch = host
    family = psutil.Process(process.pid).children(recursive=True)
    assert any("raylet" in child.name() for child in family)
    environments = [child.environ() for child in family]  # a worker that sets its title has overwritten a part of it
    assert "CANARY" not in str(environments)
    assert any(environment.get("ORDINARY") == "kept" for environment in environments)
    files = [path for path in scratch.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if b"CANARY" in path.read_bytes()]


@pytest.mark.long
def test_an_embedded_cluster_starts_no_dashboard_server(host):
    process, _, _ = host
    for child in psutil.Process(process.pid).children(recursive=True):
        ports = {c.laddr.port for c in child.net_connections(kind="inet") if c.status == psutil.CONN_LISTEN}
        assert 8265 not in ports
        assert 10001 not in ports


def test_a_gang_of_one_machine_listens_on_loopback_alone():
    others = {child.pid for child in psutil.Process().children(recursive=True)}
    gang = ProcessGang(2, "cpu", 1)
    try:
        time.sleep(0.2)
        listening = [
            connection.laddr.ip
            for child in psutil.Process().children(recursive=True)
            if child.pid not in others
            for connection in child.net_connections(kind="inet")
            if connection.status == psutil.CONN_LISTEN
        ]
    finally:
        gang.close()
    assert listening
    assert set(listening) <= {"127.0.0.1", "::1"}


def test_joining_without_a_token_warns_and_with_one_does_not(monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    assert token_warning("local") is None
    assert "without token authentication" in str(token_warning("10.0.0.1:6379"))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert "without token authentication" in str(token_warning("10.0.0.1:6379"))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert token_warning("10.0.0.1:6379") is None


@pytest.mark.long
def test_a_study_folder_that_everyone_may_write_is_refused(tmp_path):
    folder = tmp_path / "tbs_sweep" / "s"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    found = sweep(tmp_path, *SMALL, "cluster=inline")
    assert found.code == 2
    assert "writable by everyone: run `chmod o-w` on it first" in found.err
