"""The nodes of a Ray cluster: of the connected one, or of another through a child process that joins it briefly."""

import os
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import NamedTuple

# Ray reads these when imported. By default it tries for 20 s to join, and waits 60 s for a node on this machine.
SHORT_WAITS = {"RAY_NUM_REDIS_GET_RETRIES": "1", "RAY_gcs_server_request_timeout_seconds": "5"}
AGAIN = 3  # times as long as importing ray took: when the last try to join begins
LONGEST = 300  # characters of another program's message


GPU_MODEL = "accelerator_type:"  # begins the resource by which Ray marks a node with its GPUs' model


class NodeResources(NamedTuple):
    """What trials may use of a node."""

    cpus: float
    gpus: float
    gpu_model: str = ""  # as Ray names it, e.g. H100; empty where it is not known


class Node(NamedTuple):
    """A live node of a Ray cluster."""

    id: str
    name: str  # for messages
    resources: NodeResources


def live_nodes() -> list[Node]:
    """The live nodes of the connected cluster."""
    import ray

    nodes = []
    for node in ray.nodes():
        if node["Alive"]:
            name, address = node["NodeName"], node["NodeManagerAddress"]
            label = f"node {name}" if name == address else f"node {name} ({address})"
            nodes.append(Node(node["NodeID"], label, _resources(node["Resources"])))
    return nodes


def _resources(of_node: Mapping[str, float]) -> NodeResources:
    models = [name.removeprefix(GPU_MODEL) for name in of_node if name.startswith(GPU_MODEL)]
    gpus = of_node.get("GPU", 0.0)
    return NodeResources(of_node.get("CPU", 0.0), gpus, models[0] if models and gpus else "")


def node_resources() -> list[NodeResources]:
    """Those of every live node of the connected cluster."""
    return [node.resources for node in live_nodes()]


def report_nodes(address: str, pipe: Connection) -> None:
    """In a child process: send a word once ray is imported, then (node resources, "") of the cluster at `address`, or
    (None, why we could not join)."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)  # Ray's C++ code prints its own warnings there
    os.environ.update(SHORT_WAITS)
    began = time.monotonic()
    import ray

    pipe.send("imported")
    imported = time.monotonic()
    last_try = imported + AGAIN * (imported - began)
    answer: tuple[list[NodeResources] | None, str] | None = None
    while answer is None:
        try:
            ray.init(address=address, log_to_driver=False)
            answer = node_resources(), ""
        except BaseException as error:
            # On a loaded machine these waits are too short: try again, for as long as the import suggests.
            if time.monotonic() > last_try or "InvalidAuthToken" in str(error):
                answer = None, refusal(error)
        ray.shutdown()
    pipe.send(answer)


def refusal(error: BaseException) -> str:
    """Why we could not join a Ray cluster, in one line."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    message = str(error).strip()
    if "InvalidAuthToken" in message:
        return "it requires its token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the cluster's token file"
    if "No node info found" in message:
        return "this machine is not one of its nodes: run the command on a machine where `ray start` has run"
    lines = message.splitlines() or [type(error).__name__]
    return " ".join((lines[-1] if "Traceback" in message else message).split())[:LONGEST] or lines[0]
