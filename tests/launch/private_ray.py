"""A Ray cluster of our own: several nodes on this machine, started as slurm/ray_node.sh starts them in a job."""

import os
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
# A lost node is noticed after seconds instead of half a minute: its port refuses at once. One that is merely slow to
# answer, on a busy machine, is not lost.
HASTE = {"initial_delay_ms": 0, "period_ms": 500, "timeout_ms": 10000, "failure_threshold": 2}


class PrivateRay:
    """Nodes come by `add` and go by `lose`; `close` ends what is left. `env` lets a driver in."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))  # sockets lie below: a short path
        self.job = self.folder / "job"
        self.job.mkdir()
        token = self.job / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "RAY_"))}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        haste = {f"RAY_health_check_{name}": str(value) for name, value in HASTE.items()}
        self.env = {**kept, **auth, **haste, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def address(self) -> str:
        return (self.job / "address").read_text()

    def add(self, name: str, cpus: int = 1, *, gpus: int = 0, mounts: Mapping[Path, Path] | None = None) -> None:
        """Start a node and wait for it; the first one is the head. `mounts`: what it sees at a path instead of what
        is there (source by path), in a mount namespace of its own."""
        role = "worker" if self.nodes else "head"
        command = [str(ROOT / "slurm" / "ray_node.sh"), role, str(self.job)]
        if mounts:
            binds = [shlex.join(["mount", "--bind", str(source), str(path)]) for path, source in mounts.items()]
            command = ["unshare", "--mount", "sh", "-c", " && ".join([*binds, shlex.join(["exec", *command])])]
        allocation = {"SLURM_JOB_ID": "1", "SLURMD_NODENAME": name, "SLURM_CPUS_ON_NODE": str(cpus)}
        env = {**self.env, **allocation, "SLURM_GPUS_ON_NODE": str(gpus), "HARNESS_TMP": str(self.folder)}
        (self.job / f"{name}.up").unlink(missing_ok=True)
        with open(self.folder / f"{name}.log", "wb") as log:
            self.nodes[name] = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 60
        while not (self.job / f"{name}.up").exists():
            assert self.nodes[name].poll() is None, (self.folder / f"{name}.log").read_text()
            assert time.monotonic() < deadline, f"node {name} does not start"
            time.sleep(0.1)

    def workers(self, kind: str) -> list[psutil.Process]:
        """Live processes of one class of Ray actors, on any node."""
        found = []
        for node in self.nodes.values():
            for process in psutil.Process(node.pid).children(recursive=True):
                try:
                    if "".join(process.cmdline()[:1]).startswith(f"ray::{kind}"):
                        found.append(process)
                except psutil.Error:
                    continue
        return found

    def lose(self, name: str) -> None:
        """The node and everything that runs on it, gone at once."""
        top = psutil.Process(self.nodes.pop(name).pid)
        kill([top, *top.children(recursive=True)])
        for left in self.folder.glob("harness-1-*"):  # a machine that is gone removes nothing
            if not any(str(left) in line for line in command_lines()):
                shutil.rmtree(left, ignore_errors=True)

    def close(self) -> None:
        (self.job / "stop").touch()
        for process in self.nodes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                kill([psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)])
        shutil.rmtree(self.folder, ignore_errors=True)


def kill(processes: Sequence[psutil.Process]) -> None:
    """SIGKILL to all of them; returns when they are gone."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=10)


def command_lines() -> list[str]:
    """The command line of every process that lets itself be seen."""
    found = []
    for process in psutil.process_iter():
        try:
            found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def may_mount() -> bool:
    """Whether this process may give another one its own view of the file system."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0
