"""What ray_node.sh tells Ray about a node, with a `ray` on PATH that only writes its arguments down."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "slurm" / "ray_node.sh"
FAKE = """#!/bin/bash
for word in "$@"; do case $word in --temp-dir=*) folder=${word#*=} ;; esac; done
printf '%s\\n' "$@" >"$WRITTEN"
echo start >>"$WRITTEN.starts"
if [ "$(wc -l <"$WRITTEN.starts")" -le "${SLOW_STARTS:-0}" ]; then sleep "${SLOW_S:-0}"; exit 1; fi
mkdir -p "$folder" && printf 10.0.0.1:4321 >"$folder/ray_current_cluster"
exec sleep 60
"""


@pytest.fixture
def node(tmp_path):
    """(run a role with an environment -> the arguments that `ray` got, the job's folder)."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "tmp").mkdir()
    job = tmp_path / "job"
    job.mkdir()
    fake = tmp_path / "bin" / "ray"
    fake.write_text(FAKE)
    fake.chmod(0o755)

    def run(role: str, **environment: str) -> list[str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "CUDA"))}
        path = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        ours = {"PATH": path, "WRITTEN": str(tmp_path / "arguments"), "HARNESS_TMP": str(tmp_path / "tmp")}
        named = {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n1"}
        process = subprocess.Popen([str(SCRIPT), role, str(job)], env={**kept, **ours, **named, **environment})
        deadline = time.monotonic() + 10
        while not list(job.glob("n1.*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        (job / "stop").touch()
        process.wait(timeout=15)
        assert not list((tmp_path / "tmp").iterdir())
        return (tmp_path / "arguments").read_text().splitlines()

    return run, job


def test_a_head_publishes_its_address_and_opens_no_dashboard(node):
    run, job = node
    given = run("head")
    assert {"--head", "--port=0", "--include-dashboard=false", "--disable-usage-stats", "--block"} <= {*given}
    assert (job / "address").read_text() == "10.0.0.1:4321"


def test_a_worker_joins_the_published_address(node):
    run, job = node
    (job / "address").write_text("10.0.0.9:1234")
    assert "--address=10.0.0.9:1234" in run("worker")


def test_ray_is_told_what_slurm_granted_and_not_what_the_machine_has(node):
    run, _ = node
    environment = {"SLURM_CPUS_ON_NODE": "1", "SLURM_GPUS_ON_NODE": "8", "SLURM_MEM_PER_NODE": "1000"}
    given = run("head", **environment, OMP_NUM_THREADS="64")
    assert {"--num-cpus=1", "--num-gpus=8", f"--memory={1000 * 2**20}"} <= {*given}


def test_gpus_are_counted_from_the_visible_ones_where_slurm_does_not_say(node):
    run, _ = node
    assert "--num-gpus=3" in run("head", CUDA_VISIBLE_DEVICES="0,2,5")


def test_no_gpus_and_no_memory_limit_are_no_guesses(node):
    run, _ = node
    given = run("head")
    assert "--num-gpus=0" in given
    assert not [word for word in given if word.startswith("--memory")]


def test_a_node_on_which_ray_itself_was_too_slow_is_started_again(node, tmp_path):
    run, job = node
    run("head", SLOW_STARTS="1", SLOW_S="2", HARNESS_START_S="12")
    assert (job / "n1.up").exists()
    assert (tmp_path / "arguments.starts").read_text().count("start") == 2


def test_a_node_on_which_ray_fails_at_once_is_given_up_at_once(node, tmp_path):
    run, job = node
    run("head", SLOW_STARTS="9", HARNESS_START_S="60")
    assert (job / "n1.failed").exists()
    assert (tmp_path / "arguments.starts").read_text().count("start") == 1
