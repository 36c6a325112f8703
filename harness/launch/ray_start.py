"""What `ray start` has no flag for; slurm/ray_node.sh names it in RAY_START_HOOK."""

from typing import Any


def without_client_server(params: Any, head: bool) -> None:
    """No Ray Client server: we do not use it, and two jobs on a node would conflict over its fixed port."""
    params.ray_client_server_port = None
