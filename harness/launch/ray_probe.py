"""Who a Ray cluster is: asked of the connected one, or by a child process that joins, answers and leaves."""

import os
from multiprocessing.connection import Connection
from typing import NamedTuple

# Read by Ray at import. Its defaults try for 20 s to be let in, and wait 60 s for a node of theirs on this machine.
IMPATIENT = {"RAY_NUM_REDIS_GET_RETRIES": "1", "RAY_gcs_server_request_timeout_seconds": "5"}
LONGEST = 300  # characters of another program's words


class Node(NamedTuple):
    """A live node of a Ray cluster."""

    id: str
    name: str  # as a message calls it
    cpus: float
    gpus: float


def live_nodes() -> list[Node]:
    """Those of the connected cluster."""
    import ray

    found = []
    for node in ray.nodes():
        if node["Alive"]:
            name, address = node["NodeName"], node["NodeManagerAddress"]
            label = f"node {name}" if name == address else f"node {name} ({address})"
            resources = node["Resources"]
            found.append(Node(node["NodeID"], label, resources.get("CPU", 0.0), resources.get("GPU", 0.0)))
    return found


def node_resources() -> list[tuple[float, float]]:
    """(CPUs, GPUs) of every live node of the connected cluster."""
    return [(node.cpus, node.gpus) for node in live_nodes()]


def report_nodes(address: str, pipe: Connection) -> None:
    """Child process: send (node resources, "") of the cluster at `address`, or (None, why it did not let us in)."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)  # Ray's C++ side warns there on its own
    os.environ.update(IMPATIENT)
    import ray

    try:
        ray.init(address=address, log_to_driver=False)
        pipe.send((node_resources(), ""))
    except BaseException as error:
        pipe.send((None, refusal(error)))
    ray.shutdown()


def refusal(error: BaseException) -> str:
    """Why Ray did not let us in, in one line."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    said = str(error).strip()
    if "InvalidAuthToken" in said:
        return "it asks for its token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the cluster's token file"
    if "No node info found" in said:
        return "this machine is none of its nodes: run the command where `ray start` has run"
    lines = said.splitlines() or [type(error).__name__]
    return " ".join((lines[-1] if "Traceback" in said else said).split())[:LONGEST] or lines[0]
