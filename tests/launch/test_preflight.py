"""A node that sees another folder, other code or other data is named and refused before any trial starts."""

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from private_ray import ROOT, PrivateRay, may_mount
from sweeps import SMALL, Sweep, command

from harness.launch.preflight import becomes_visible

needs_mounts = pytest.mark.skipif(
    not may_mount(), reason="nodes with another view of the file system need the right to mount"
)
ONE_TRIAL = [*SMALL, "seeds=[0]", "question.total_batch_sizes=[128]", "lr_scaling=linear"]


@pytest.fixture(scope="module")
def ray_head() -> Iterator[PrivateRay]:
    """A cluster whose only node works; each test adds one."""
    cluster = PrivateRay()
    cluster.add("good")
    yield cluster
    cluster.close()


@pytest.fixture
def view(tmp_path: Path) -> dict[str, Path]:
    """The folder of the study, and another one that a node finds in its place."""
    there, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    there.mkdir()
    elsewhere.mkdir()
    return {"there": there, "elsewhere": elsewhere}


def sweep_on(cluster: PrivateRay, output: Path, *arguments: str) -> Sweep:
    words = command(output, *ONE_TRIAL, f"cluster.address={cluster.address}", *arguments)
    done = subprocess.run(words, env=cluster.env, cwd=output, capture_output=True, text=True, timeout=120)
    return Sweep(output / "tbs_sweep" / "s", done.returncode, done.stdout, done.stderr)


def refusal_of(found: Sweep) -> str:
    """The one line; no trial has begun, and the study is free for the next try."""
    assert found.code == 2, found.out + found.err
    assert found.err.startswith("error: node bad")
    assert found.err.count("\n") == 1, found.err
    assert not list(found.folder.glob("trials/*/*/events.*"))
    assert not (found.folder / "witnesses").exists()
    return found.err


@pytest.mark.long
@needs_mounts
def test_a_node_with_another_folder_is_named(ray_head, view):
    ray_head.add("bad", mounts={view["there"]: view["elsewhere"]})
    try:
        assert "does not see the study in" in refusal_of(sweep_on(ray_head, view["there"]))
    finally:
        ray_head.lose("bad")


@pytest.mark.long
@needs_mounts
def test_a_node_with_other_code_is_named(ray_head, view, tmp_path):
    other = tmp_path / "plan"
    shutil.copytree(ROOT / "harness" / "plan", other)
    with open(other / "scaling.py", "a") as file:
        file.write("\nANOTHER_VERSION = True\n")
    ray_head.add("bad", mounts={ROOT / "harness" / "plan": other})
    try:
        assert "has different code of the harness or of your classes" in refusal_of(sweep_on(ray_head, view["there"]))
    finally:
        ray_head.lose("bad")


@pytest.mark.long
def test_a_cluster_with_gpus_is_planned_for_them_and_a_node_whose_torch_cannot_use_them_is_named(ray_head, tmp_path):
    ray_head.add("bad", gpus=2)
    try:
        planned = sweep_on(ray_head, tmp_path, "dry_run=true", "cluster.precision=bf16")
        assert f"devices       GPUs: 2 on 1 of 2 nodes at {ray_head.address}" in planned.out
        assert "cuda bf16" in planned.out
        assert not (tmp_path / "tbs_sweep").exists()
        assert "has GPUs, but its torch" in refusal_of(sweep_on(ray_head, tmp_path))
        on_cpus = sweep_on(ray_head, tmp_path, "dry_run=true", "cluster.device=cpu")
        assert "devices       CPUs, as cluster.device says" in on_cpus.out
    finally:
        ray_head.lose("bad")


@pytest.mark.long
@needs_mounts
def test_a_node_that_cannot_read_the_data_is_named_and_without_it_the_sweep_runs(ray_head, view, tmp_path):
    import sklearn.datasets

    data = Path(sklearn.datasets.__file__).parent / "data"
    (tmp_path / "nothing").mkdir()
    ray_head.add("bad", mounts={data: tmp_path / "nothing"})
    try:
        assert "digits" in refusal_of(sweep_on(ray_head, view["there"]))
    finally:
        ray_head.lose("bad")
    time.sleep(3)  # until the cluster knows that the node is gone
    found = sweep_on(ray_head, view["there"])
    assert found.code == 0, found.out + found.err
    assert {record["outcome"] for record in found.records().values()} == {"reached"}


def test_a_record_that_shows_up_late_is_waited_for_and_one_that_never_does_is_not_for_ever(tmp_path, monkeypatch):
    late = tmp_path / "record.json"
    writer = threading.Timer(0.5, late.touch)
    writer.start()
    assert becomes_visible(late)
    writer.join()
    monkeypatch.setattr("harness.launch.preflight.VISIBLE_S", 0.3)
    assert not becomes_visible(tmp_path / "never.json")
