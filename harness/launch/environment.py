"""Which environment variables Ray's processes get: none that holds a secret (P26).

Ray writes its processes' environment into logs and shows it to whoever may look. Variables that
cluster.pass_environment names go from the driver to the workers by actor calls: from memory to memory, and neither
through runtime_env nor through a Tune configuration, which Ray would store.

    python -m harness.launch.environment    # names of the variables to withhold, one a line; slurm/ray_node.sh reads it
"""

import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from harness.plan.secrets import matching, secret_variables

SET_BY_RAY = ("RAY_", "CUDA_VISIBLE_DEVICES")  # in every worker, whatever the driver has


@contextmanager
def without_secrets() -> Iterator[None]:
    """Our own environment without secrets: whatever is started in the block inherits none."""
    hidden = {name: os.environ.pop(name) for name in secret_variables(os.environ)}
    try:
        yield
    finally:
        os.environ.update(hidden)


def passed(patterns: Sequence[str]) -> dict[str, str]:
    """The variables of our own environment that any of the patterns matches."""
    names = [name for name in matching(os.environ, patterns) if not name.startswith(SET_BY_RAY)]
    return {name: os.environ[name] for name in sorted(names)}


def withheld(patterns: Sequence[str]) -> str | None:
    """A line that names what neither Ray nor the workers get; None for nothing."""
    names = [name for name in secret_variables(os.environ) if not matching([name], patterns)]
    if not names:
        return None
    return (
        f"not passed on to Ray: {', '.join(names)}; cluster.pass_environment=[NAME,...] passes variables on to the "
        "workers alone"
    )


class _Holder:
    """A Ray actor that keeps the variables for workers that start later, on any node."""

    def __init__(self) -> None:
        self.variables: Mapping[str, str] = {}

    def hold(self, variables: Mapping[str, str]) -> None:
        self.variables = variables

    def give(self) -> Mapping[str, str]:
        return self.variables


class SharedEnvironment:
    """The driver's side: variables that the workers of the connected cluster can fetch by `key` while this exists."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self.key = ""  # nothing to fetch
        self._actor: Any = None
        if variables := passed(patterns):
            import ray
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            self.key = f"harness-environment-{uuid.uuid4().hex}"
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            options = {"name": self.key, "num_cpus": 0, "scheduling_strategy": here}
            self._actor = ray.remote(_Holder).options(**options).remote()
            ray.get(self._actor.hold.remote(variables))


def fetch(key: str) -> dict[str, str]:
    """In a worker: the variables shared under `key`, which it now has in its environment."""
    if not key:
        return {}
    import ray

    variables = dict(ray.get(ray.get_actor(key).give.remote()))
    os.environ.update(variables)
    return variables


if __name__ == "__main__":
    print("\n".join(secret_variables(os.environ)))
