"""Whether the nodes of a joined cluster can work on a study: the same folder, code, packages and data (P19).

Nodes that join later are not checked in advance: there every trial checks the folder before it writes (`see_study`).
"""

import secrets
import shutil
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.launch.causes import cause
from harness.launch.environment import fetch
from harness.launch.node_gpus import NodeGpus, check_gpus_alike, gpu_nodes, recorded
from harness.launch.node_progress import read_progress, showing_progress
from harness.launch.ray_probe import live_nodes
from harness.launch.tasks import Cluster
from harness.plan.errors import UserError
from harness.plan.instantiate import instantiate
from harness.plan.settings import Spec
from harness.record.code_fingerprint import code_fingerprint, fingerprint_text
from harness.record.drain_flag import is_current
from harness.record.files import write_whole
from harness.record.provenance import versions
from harness.record.study import Study
from harness.train.trainer import Execution

ANSWER_S = 300.0  # without progress until a node is given up; reading the data set may take any time
LOOK_EVERY_S = 1.0
VISIBLE_S = 30.0  # time for a network file system to show one node what another has written
WITNESSES = "witnesses"  # folder of a study that exists while its nodes are checked
PACKAGES = ("python", "torch", "numpy")  # another version of these may change results; Ray compares its own


def check_nodes(
    study: Study,
    cluster: Cluster,
    specs: Sequence[Spec],
    most_workers: int,
    environment: str = "",
    say: Callable[[str], None] = print,
) -> None:
    """Check every live node of the connected cluster; UserError in one line that names the first unsuitable node. What
    GPUs they have goes into study.json.

    `specs` name the classes whose code every node must have; the first is that of the data set. `most_workers`: of a
    trial. `environment`: key of the shared variables, which the data set may need. `say`: gets a line of progress of
    nodes that prepare data.
    """
    description, execution = study.description(), cluster.execution
    witnesses = study.lease.folder / WITNESSES
    witnesses.mkdir(exist_ok=True)
    live = live_nodes()
    nodes, with_gpus = {node.id: node.name for node in live}, {node.id for node in gpu_nodes(live, cluster)}
    gpus: dict[str, NodeGpus] = {}
    tokens = {node_id: secrets.token_hex(16) for node_id in nodes}
    look = ray.remote(num_cpus=0, max_retries=0)(_look)
    asked = {
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)).remote(
            execution, str(witnesses / node_id), token, specs, environment
        ): node_id
        for node_id, token in tokens.items()
    }
    try:
        for future, node_id in asked.items():
            answer = _answer(future, nodes[node_id], _progress_file(witnesses / node_id), say)
            _compare(nodes[node_id], answer, description, cluster.device)
            if node_id in with_gpus:
                gpus[nodes[node_id]] = answer["gpus"]
            if not _reads(witnesses / node_id, tokens[node_id]):
                raise UserError(
                    f"{nodes[node_id]} has another folder at {study.path}: put the study on a shared file system"
                )
    finally:
        shutil.rmtree(witnesses, ignore_errors=True)  # a node that is given up may still write there
    check_gpus_alike(gpus, most_workers, say)
    if gpus and study.leads:
        study.add_hardware(recorded(gpus))


def see_study(execution: Execution) -> None:
    """Raises RuntimeError if this machine does not see the study that the driver has opened."""
    if execution.drain_file is None:
        return
    drain_file = Path(execution.drain_file)
    if not _becomes_true(lambda: is_current(drain_file, execution.study_attempt)):
        raise RuntimeError(
            f"{socket.gethostname()} does not see the study in {drain_file.parent}: put it on a shared file system"
        )


def _look(execution: Execution, witness: str, token: str, specs: Sequence[Spec], environment: str) -> dict[str, Any]:
    """Runs on a node: its versions and fingerprints, or `error`, why it cannot run trials."""
    try:
        see_study(execution)
        fetch(environment)
        write_whole(Path(witness), token)
        with showing_progress(_progress_file(Path(witness))):
            data = instantiate(specs[0]).load().fingerprint
    except Exception as error:
        return {"error": cause(str(error)) or type(error).__name__}
    gpus = NodeGpus.of_this_node()
    return {**versions(), "code_fingerprint": code_fingerprint(specs), "data_fingerprint": data, "gpus": gpus}


def _progress_file(witness: Path) -> Path:
    return witness.with_name(f"{witness.name}.progress")


def _answer(future: Any, name: str, progress: Path, say: Callable[[str], None]) -> dict[str, Any]:
    seen, deadline = ("", ""), time.monotonic() + ANSWER_S
    try:
        while not ray.wait([future], timeout=LOOK_EVERY_S)[0]:
            if (now := read_progress(progress)) != seen:
                if now[1] and now[1] != seen[1]:
                    say(f"{name}: {now[1]}")
                seen, deadline = now, time.monotonic() + ANSWER_S
            elif time.monotonic() >= deadline:
                raise UserError(
                    f"{name} has made no progress for {ANSWER_S:g} s: check its file system and its network; what it "
                    "has prepared of the data is kept"
                )
        return ray.get(future)
    except RayError as error:
        reason = cause(str(error))
        raise UserError(f"{name} cannot run the harness ({reason}): install the same version on every node") from error


def _compare(name: str, answer: Mapping[str, Any], description: Mapping[str, Any], device: str) -> None:
    """Raises UserError where a node differs from the driver, whose torch may be a build for CPUs: it trains nothing."""
    if "error" in answer:
        raise UserError(f"{name} cannot run trials: {answer['error']}")
    here = {**description["versions"], **{key: description[key] for key in ("code_fingerprint", "data_fingerprint")}}
    what = {
        "code_fingerprint": "different code of the harness or of your classes",
        "data_fingerprint": "different data",
    }
    for key in (*PACKAGES, "code_fingerprint", "data_fingerprint"):
        if device == "cuda" and key == "torch" and _release(answer) == _release(here):
            continue
        if answer.get(key) != here.get(key):
            theirs, ours = (fingerprint_text(side.get(key, "none")) for side in (answer, here))
            difference = what.get(key, f"another version of {key}")
            raise UserError(f"{name} has {difference} ({theirs}, here {ours}): make every node the same")


def _release(versions: Mapping[str, Any]) -> str:
    """The version of torch without what it was built for: 2.9.1 of 2.9.1+cu128."""
    return str(versions.get("torch")).partition("+")[0]


def becomes_visible(path: Path) -> bool:
    """Whether a file that another node has written appears here within VISIBLE_S."""

    def is_visible() -> bool:
        list(path.parent.iterdir())  # network file systems show a new file once its folder is listed
        return path.is_file()

    return _becomes_true(is_visible)


def _reads(path: Path, token: str) -> bool:
    return becomes_visible(path) and _becomes_true(lambda: path.read_text() == token)


def _becomes_true(holds: Callable[[], bool]) -> bool:
    """Whether `holds()` becomes true within VISIBLE_S."""
    deadline = time.monotonic() + VISIBLE_S
    while not holds():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.2)
    return True
