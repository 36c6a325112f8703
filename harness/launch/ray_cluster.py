"""Ray, embedded or joined: explicit address, token authentication, no dashboard, little output (P26)."""

import logging
import multiprocessing
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from harness.launch.drain import signals_blocked
from harness.launch.environment import without_secrets
from harness.launch.ray_probe import NodeResources, refusal, report_nodes
from harness.launch.tasks import Cluster
from harness.plan.errors import UserError
from harness.record.gpus import visible_slices
from harness.record.provenance import usable_cpus
from harness.record.scratch import make_scratch

CONNECT_S = 4.0  # time for a port to open
IMPORT_S = 300.0  # time to import ray, about 1 s on an idle machine; nothing has been asked of the cluster by then
ANSWER_S = 10.0  # time for the Ray cluster behind it to let us join; an idle one on a slow machine takes about 2 s
LOADED = 5  # on a loaded machine, so many times as long as importing ray took
SCRATCH = "harness-"
OBJECT_STORE_BYTES = 100 * 2**20  # only small messages pass through it; Ray's default is 30 % of the memory

# Ray and Tune read these when imported, so they are set before that.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # otherwise every lost worker fills the screen, on top of our own line
    "RAY_LOG_TO_DRIVER": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "RAY_worker_niceness": "0",  # Ray's default of 15 is close to that of processes meant to give way to trials
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C drains (launch.drain)
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_THRESHOLD_S": "60",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "60",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
}


@contextmanager
def ray_cluster(cluster: Cluster) -> Iterator[Path]:
    """A connection to Ray for the duration of the block; yields a private scratch folder for it.

    UserError if the address does not answer.
    """
    os.environ.update(QUIET)
    os.environ.pop("RAY_ADDRESS", None)  # an inherited address would silently join somebody else's cluster
    scratch = make_scratch(SCRATCH)
    embedded = cluster.address == "local"
    if embedded:
        _private_token(scratch)
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        if embedded:
            with without_secrets():
                ray.init(
                    address="local",
                    num_cpus=cluster.cpus or usable_cpus(),
                    num_gpus=visible_slices() or None,  # Ray itself would count the GPU, not its MIG slices
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    object_store_memory=OBJECT_STORE_BYTES,
                    _temp_dir=str(scratch / "ray"),  # Ray makes it readable by everyone; its parent stays private
                    _node_ip_address="127.0.0.1",
                )
        else:
            _join(cluster.address)
        yield scratch
    finally:
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


def _private_token(scratch: Path) -> None:
    """A random token for this cluster alone, in a file that only its owner can read; never in argv."""
    path = scratch / "token"
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32))
    os.environ.pop("RAY_AUTH_TOKEN", None)
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)


def token_warning(address: str) -> str | None:
    """A warning if a cluster is joined without its token: Ray then runs code for anyone who can reach its ports."""
    if address == "local" or os.environ.get("RAY_AUTH_MODE") == "token":
        return None
    return (
        f"warning: joining {address} without token authentication: anyone who can reach its ports can run code as you; "
        "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH on every node and here (docs/clusters.md)"
    )


def running_nodes(address: str) -> list[NodeResources]:
    """Resources of every live node of the cluster at `address`, as seen from a child process that joins it briefly.

    UserError within CONNECT_S + ANSWER_S, longer on a loaded machine, if nothing answers, if something other than Ray
    does, or if the cluster rejects us: Ray's own client would wait for minutes, print, or end the process.
    """
    host, _, port = address.rpartition(":")
    todo = "start one with `ray start --head`, or use cluster.address=local"
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise UserError(f"no Ray cluster answers at cluster.address={address} ({error}): {todo}") from error
    os.environ.update(QUIET)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=report_nodes, args=(address, theirs), daemon=True)
    with signals_blocked():
        child.start()
    theirs.close()
    try:
        nodes, reason = _received(ours)
    finally:
        child.kill()
        child.join()
        ours.close()
    if nodes is None:
        raise UserError(f"cluster.address={address} answers, but cannot be joined as a Ray cluster: {reason}")
    return nodes


def _received(pipe: Connection) -> tuple[list[NodeResources] | None, str]:
    """What `report_nodes` sends: a word once it has imported ray, then its answer."""
    began = time.monotonic()
    try:
        if not pipe.poll(IMPORT_S):
            return None, f"ray was not imported within {IMPORT_S:g} s on this machine"
        pipe.recv()
        answer_s = max(ANSWER_S, LOADED * (time.monotonic() - began))
        if pipe.poll(answer_s):
            return pipe.recv()
    except EOFError:
        return None, "Ray ended the connecting process"
    return None, f"no answer within {answer_s:.0f} s"


def _join(address: str) -> None:
    import ray
    from ray.exceptions import RayError

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise UserError(f"cluster.address={address} cannot be joined: {refusal(error)}") from error
