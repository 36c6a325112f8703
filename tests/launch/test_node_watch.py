"""Nodes that come and go are told, and a sweep that fits no longer ends after its patience and not before."""

from dataclasses import replace

import pytest
from test_feed import CLUSTER, planned

from harness.launch.node_watch import NodeWatch
from harness.launch.ray_probe import Node, NodeResources
from harness.plan.batch import plan_batch
from harness.plan.trial import Topology

A, B = Node("1", "node a", NodeResources(2.0, 0.0)), Node("2", "node b", NodeResources(1.0, 0.0))


@pytest.fixture
def watch(monkeypatch):
    """(the watch, its cluster of nodes, what it said, its clock)."""
    nodes, said, now = [A, B], [], [1000.0]
    monkeypatch.setattr("harness.launch.node_watch.time.monotonic", lambda: now[0])
    return NodeWatch(replace(CLUSTER, node_wait_s=10.0), said.append, lambda: list(nodes)), nodes, said, now


def of_workers(world_size):
    return replace(planned("linear", 64, 0), topology=Topology(plan_batch(48, world_size)))


def test_a_node_that_leaves_and_one_that_joins_are_told_once(watch):
    watched, nodes, said, now = watch
    for nodes[:], expected in (([A, B], 0), ([A], 1), ([A], 1), ([A, B], 2)):
        now[0] += 3
        assert not watched.lacks_capacity(lambda: [of_workers(1)])
        assert len(said) == expected
    assert said == [
        "node b was lost: its trials resume elsewhere from their last checkpoints",
        "node b has joined: 1 CPUs, 0 GPUs",
    ]


def test_a_trial_that_fits_nowhere_ends_the_sweep_after_the_wait(watch):
    watched, nodes, said, now = watch
    assert not watched.lacks_capacity(lambda: [of_workers(3)])
    nodes.remove(B)
    for _ in range(4):
        now[0] += 2.4
        assert not watched.lacks_capacity(lambda: [of_workers(3)])
    now[0] += 2.4
    assert watched.lacks_capacity(lambda: [of_workers(3)])
    assert "needs 3 workers, but for 10 s the 1 remaining node(s) have had room for at most 2" in said[-1]


def test_a_smaller_trial_or_a_returning_node_keeps_the_sweep_alive(watch):
    watched, nodes, _, now = watch
    nodes.remove(B)
    now[0] += 100
    assert not watched.lacks_capacity(lambda: [of_workers(3), of_workers(2)])
    now[0] += 9
    assert not watched.lacks_capacity(lambda: [of_workers(3)])
    nodes.append(B)
    now[0] += 9
    assert not watched.lacks_capacity(lambda: [of_workers(3)])
    now[0] += 100
    assert not watched.lacks_capacity(list)  # nothing waits: everything left runs
