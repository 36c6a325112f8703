"""Ranks of one node lie together and see each other's GPUs, and talk over the interface that Ray reached them by."""

import psutil
import pytest

from harness.launch.gang import GangError
from harness.launch.ray_gang import WorkerLocation, interface_of, rank_devices


def test_every_rank_sees_the_gpus_of_its_gang_on_its_node_and_computes_on_its_own():
    places = [
        WorkerLocation("b", "10.0.0.2", ("10",)),
        WorkerLocation("a", "10.0.0.1", ("3",)),
        WorkerLocation("b", "10.0.0.2", ("2",)),
        WorkerLocation("a", "10.0.0.1", ("0",)),
    ]
    ranks = sorted(places, key=lambda place: place.sort_key)
    assert [(place.node_id, place.gpus[0]) for place in ranks] == [("a", "0"), ("a", "3"), ("b", "2"), ("b", "10")]
    assert rank_devices(ranks) == [
        ("cuda:0", {"CUDA_VISIBLE_DEVICES": "0,3"}),
        ("cuda:1", {"CUDA_VISIBLE_DEVICES": "0,3"}),
        ("cuda:0", {"CUDA_VISIBLE_DEVICES": "2,10"}),
        ("cuda:1", {"CUDA_VISIBLE_DEVICES": "2,10"}),
    ]


def test_gpus_may_be_named_by_their_uuids():
    places = [WorkerLocation("a", "10.0.0.1", ("GPU-aa",)), WorkerLocation("a", "10.0.0.1", ("GPU-bb",))]
    assert [device for device, _ in rank_devices(places)] == ["cuda:0", "cuda:1"]
    assert rank_devices(places)[1][1] == {"CUDA_VISIBLE_DEVICES": "GPU-aa,GPU-bb"}


def test_two_ranks_are_never_placed_on_mig_slices():
    slices = [WorkerLocation("a", "10.0.0.1", (f"MIG-{name}",)) for name in "ab"]
    assert rank_devices(slices[:1]) == [("cuda:0", {"CUDA_VISIBLE_DEVICES": "MIG-a"})]
    with pytest.raises(GangError, match="MIG"):
        rank_devices(slices)


def test_the_interface_of_an_address_is_the_one_that_holds_it():
    for name, addresses in psutil.net_if_addrs().items():
        for one in addresses:
            if one.family.name == "AF_INET":
                assert interface_of(one.address) == name
    assert interface_of("192.0.2.1") is None  # reserved for documentation: nobody has it
