"""Who a Ray cluster is: asked of the connected one, or by a child process that joins, answers and leaves."""

import os
from multiprocessing.connection import Connection

from harness.plan.errors import one_line


def node_resources() -> list[tuple[float, float]]:
    """(CPUs, GPUs) of every live node of the connected cluster."""
    import ray

    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in resources]


def report_nodes(address: str, pipe: Connection) -> None:
    """Child process: send (node resources, "") of the cluster at `address`, or (None, why it did not let us in)."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)  # Ray's C++ side warns there on its own
    import ray

    try:
        ray.init(address=address, log_to_driver=False)
        pipe.send((node_resources(), ""))
    except BaseException as error:
        pipe.send((None, one_line(error)))
    ray.shutdown()
