"""slurm/ray_node.sh leaves nothing behind: Ray's agents on a worker would outlive the head by a minute."""

import psutil
import pytest
from private_ray import PrivateRay

pytestmark = pytest.mark.long


def test_no_process_of_ray_outlives_the_end_of_its_job():
    cluster = PrivateRay()
    try:
        cluster.add("head")
        cluster.add("worker")
        started = [p for node in cluster.nodes.values() for p in psutil.Process(node.pid).children(recursive=True)]
        assert sum(p.name() == "ray::DashboardAgent" for p in started) == 2
    finally:
        cluster.close()
    _, left = psutil.wait_procs(started, timeout=5)
    assert not left
