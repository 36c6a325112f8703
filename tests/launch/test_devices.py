"""Trials train on the devices of the nodes where they will run, whatever the driver's torch sees, and GPUs of several
models are never mixed without a word (P34)."""

from dataclasses import replace
from typing import Any

import pytest

from harness.launch.devices import (
    check_models_here,
    check_slices,
    chosen_model,
    device_hints,
    device_line,
    uses_gpus,
)
from harness.launch.node_gpus import NodeGpus, check_gpus_alike, recorded
from harness.launch.ray_probe import NodeResources
from harness.launch.tasks import cluster_of
from harness.plan.cluster import ClusterConfig, Slurm
from harness.plan.errors import UserError
from harness.plan.timing import hardware_line
from harness.record.gpus import Gpu, counted_names, parse_gpus, visible_gpus

LOGIN, H100, A100 = NodeResources(8.0, 0.0), NodeResources(64.0, 8.0, "H100"), NodeResources(64.0, 4.0, "A100")
UNKNOWN = NodeResources(64.0, 2.0)
JOINED = ClusterConfig(launcher="ray", address="head:6379")
HERE = ClusterConfig(launcher="inline")
# As NVIDIA's MIG guide shows it: a GPU in two slices, and a whole one.
LISTED = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 1g.5gb      Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 1c.3g.20gb  Device  1: (UUID: MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-0f5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
"""
LIBRARIES = {"cuda": "12.8", "cudnn": "9.10.2", "nccl": "2.27.3"}
OF_H100 = NodeGpus(["NVIDIA H100 80GB HBM3"] * 8, False, "550.54.15", "2.11.0+cu128", LIBRARIES)


def settled(config: ClusterConfig, *nodes: NodeResources) -> tuple[str, float, str]:
    """Device, GPUs of a worker and the line of a dry run."""
    on_gpus = uses_gpus(config, nodes)
    cluster = cluster_of(config, on_gpus, chosen_model(config.gpu_model, nodes) if on_gpus else "")
    return cluster.device, cluster.gpus_per_worker, device_line(config, cluster, nodes)


@pytest.mark.parametrize(
    ("config", "nodes", "device", "gpus", "line"),
    [
        (JOINED, [LOGIN, H100], "cuda", 1.0, "GPUs H100: 8 on 1 of 2 nodes at head:6379"),
        (JOINED, [LOGIN], "cpu", 0.0, "CPUs: no node at head:6379 has a GPU"),
        (JOINED, [UNKNOWN], "cuda", 1.0, "GPUs: 2 on 1 of 1 node at head:6379"),
        (replace(JOINED, gpus_per_worker=0.25), [H100], "cuda", 0.25, "GPUs H100: 8 on 1 of 1 node at head:6379"),
        (
            replace(JOINED, gpu_model="H100"),
            [LOGIN],
            "cuda",
            1.0,
            "GPUs: 0 on 0 of 1 node at head:6379",
        ),
        (replace(JOINED, device="cpu"), [H100, A100], "cpu", 0.0, "CPUs, as cluster.device says"),
        (replace(JOINED, gpus_per_worker=0.0), [H100], "cpu", 0.0, "CPUs, as cluster.gpus_per_worker says"),
        (replace(JOINED, gpu_model="a100"), [H100, A100], "cuda", 1.0, "GPUs A100: 4 on 1 of 2 nodes at head:6379"),
        (replace(JOINED, gpu_model="any"), [H100, A100], "cuda", 1.0, "GPUs: 12 on 2 of 2 nodes at head:6379"),
        (HERE, [LOGIN], "cpu", 0.0, "CPUs: torch sees no GPU on this machine"),
        (HERE, [NodeResources(8.0, 2.0)], "cuda", 1.0, "GPUs: torch sees 2 on this machine"),
        (replace(HERE, device="cuda"), [LOGIN], "cuda", 1.0, "GPUs, as cluster.device says"),
    ],
)
def test_the_nodes_decide_and_a_dry_run_says_which_devices(config, nodes, device, gpus, line):
    assert settled(config, *nodes) == (device, gpus, line)


def test_a_slurm_job_is_planned_for_the_nodes_that_it_asks_for():
    config = replace(HERE, launcher="ray", slurm=Slurm(nodes=1, cpus_per_node=8, gpus_per_node=8, time="1:00:00"))
    assert settled(config, NodeResources(8.0, 8.0))[::2] == ("cuda", "GPUs, as cluster.slurm.gpus_per_node says")


@pytest.mark.parametrize(
    ("wanted", "nodes", "message"),
    [
        (None, [H100, A100], r"several models \(8 x H100, 4 x A100\).*P34.*cluster.gpu_model=any"),
        (None, [H100, UNKNOWN], r"8 x H100, 2 x a model that Ray does not know"),
        ("B200", [H100, A100], r"cluster.gpu_model=B200: no node has such GPUs, but 8 x H100, 4 x A100"),
    ],
)
def test_gpus_of_several_models_are_refused_until_one_is_chosen(wanted, nodes, message):
    with pytest.raises(UserError, match=message):
        chosen_model(wanted, nodes)


def test_trials_are_kept_to_nodes_of_the_chosen_model():
    cluster = cluster_of(replace(JOINED, gpus_per_worker=0.5), True, "H100")
    assert cluster.bundle == {"CPU": 1.0, "GPU": 0.5, "accelerator_type:H100": 0.001}
    assert cluster_of(JOINED, False).bundle == {"CPU": 1.0}


def test_models_of_this_machine_are_checked_too():
    names = ["NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 3090"]
    with pytest.raises(UserError, match=r"1 x NVIDIA GeForce RTX 4090, 1 x NVIDIA GeForce RTX 3090.*CUDA_VISIBLE_DEV"):
        check_models_here(None, names)
    with pytest.raises(UserError, match="gpu_model=4090, but this machine also has 1 x NVIDIA GeForce RTX 3090"):
        check_models_here("4090", names)
    check_models_here("any", names)
    check_models_here("rtx 4090", names[:1] * 2)
    check_models_here("H100", [])  # nvidia-smi is not there to say


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"device": "gpu"}, "cluster.device must be one of auto, cpu, cuda, not 'gpu'"),
        ({"device": "cpu", "gpus_per_worker": 1.0}, "gpus_per_worker=1 contradicts cluster.device=cpu"),
        ({"device": "cuda", "gpus_per_worker": 0.0}, "gpus_per_worker=0 contradicts cluster.device=cuda"),
        ({"gpu_model": "H100", "device": "cpu"}, "cluster.gpu_model=H100 contradicts cluster.device=cpu"),
        ({"gpu_model": "any", "gpus_per_worker": 0.0}, "gpu_model=any contradicts cluster.gpus_per_worker=0"),
        ({"gpu_model": " "}, "cluster.gpu_model must be a model such as H100, any or null"),
    ],
)
def test_contradictions_are_refused(given: dict[str, Any], message):
    with pytest.raises(UserError, match=message):
        ClusterConfig(launcher="ray", **given)


# -- MIG and hints ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["NVIDIA A100-SXM4-40GB MIG 1g.5gb", "NVIDIA A100-SXM4-40GB MIG 1c.3g.20gb", "NVIDIA H100 80GB HBM3"]),
        ("", []),
        ("MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb", ["NVIDIA A100-SXM4-40GB MIG 1c.3g.20gb"]),
        ("1", ["NVIDIA H100 80GB HBM3"]),
        ("0", ["NVIDIA A100-SXM4-40GB MIG 1g.5gb"]),  # a process sees one slice, the first
        ("1,7,0", ["NVIDIA H100 80GB HBM3"]),  # as CUDA does: nothing after a number that is not there
        ("GPU-0f5b", ["NVIDIA H100 80GB HBM3"]),
    ],
)
def test_visible_gpus_are_those_that_cuda_would_use(visible, names):
    assert [gpu.name for gpu in visible_gpus(parse_gpus(LISTED), visible)] == names


def test_ranks_on_mig_slices_are_refused(monkeypatch):
    check_slices({1, 2})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-c6d4f1ef-42e4,MIG-cba663e8-9bed")
    check_slices({1})
    with pytest.raises(UserError, match="names MIG slices, but a trial has 2 ranks: a process sees one"):
        check_slices({1, 2})


def test_what_a_user_may_not_want_is_said():
    slices = [gpu for gpu in parse_gpus(LISTED) if gpu.is_slice]
    gpu = [Gpu(0, "NVIDIA H100 80GB HBM3", "GPU-0")]
    for config, on_gpus, listed, words in (
        (HERE, True, gpu, ["cluster.precision=float32"]),
        (replace(HERE, precision="bf16"), True, gpu, []),
        (HERE, False, gpu, ["1 x NVIDIA H100 80GB HBM3, which torch"]),
        (replace(HERE, device="cpu"), False, gpu, []),
        (replace(HERE, precision="tf32"), True, slices, ["2 MIG slices"]),
        (HERE, False, [], []),
    ):
        hints = device_hints(config, cluster_of(config, on_gpus), listed)
        assert len(hints) == len(words)
        assert all(word in hint for word, hint in zip(words, hints, strict=True))


# -- what nodes say ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "workers", "message"),
    [
        (
            replace(OF_H100, libraries={}, torch="2.11.0+cpu"),
            1,
            "b has GPUs, but its torch 2.11.0.cpu is built without",
        ),
        (replace(OF_H100, torch="2.11.0+cu126"), 1, "a has torch 2.11.0.cu128, b has torch 2.11.0.cu126"),
        (replace(OF_H100, has_slices=True), 2, "b has MIG slices of GPUs, but a trial has 2 ranks"),
    ],
)
def test_a_node_whose_gpus_cannot_be_used_alike_is_named(other, workers, message):
    with pytest.raises(UserError, match=message):
        check_gpus_alike({"a": OF_H100, "b": other}, workers, lambda line: None)


def test_nodes_with_other_gpus_or_drivers_are_said_and_recorded():
    said: list[str] = []
    other = replace(OF_H100, names=["NVIDIA A100-SXM4-40GB"] * 4, driver="535.1.1")
    check_gpus_alike({"a": OF_H100, "b": OF_H100}, 8, said.append)
    assert said == []
    check_gpus_alike({"a": OF_H100, "b": other}, 8, said.append)
    assert len(said) == 1
    assert "NVIDIA A100-SXM4-40GB, driver 535.1.1, CUDA 12.8, cuDNN 9.10.2, NCCL 2.27.3; NVIDIA H100" in said[0]
    kept = recorded({"a": OF_H100, "b": other})
    assert kept["gpu"] == "8 x NVIDIA H100 80GB HBM3, 4 x NVIDIA A100-SXM4-40GB"
    assert kept["driver"] == "535.1.1 + 550.54.15"
    line = hardware_line({"cpu": "a processor", "cpus": 64, "device": "cuda", **recorded({"a": OF_H100})})
    assert line == (
        "8 x NVIDIA H100 80GB HBM3, driver 550.54.15, CUDA 12.8, cuDNN 9.10.2, NCCL 2.27.3, a processor, 64 CPUs"
    )
    assert hardware_line({"cpu": "a processor", "cpus": 2, "device": "cpu"}) == "a processor, 2, cpu"
    assert counted_names([]) == ""
