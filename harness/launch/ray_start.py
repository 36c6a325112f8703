"""What `ray start` cannot be told by flags; slurm/ray_node.sh names it in RAY_START_HOOK."""

from typing import Any


def without_client_server(params: Any, head: bool) -> None:
    """No Ray Client server: nothing of ours uses it, and two jobs on a node would quarrel over its fixed port."""
    params.ray_client_server_port = None
