"""A Slurm of our own: munged, slurmctld and two slurmd of two CPUs each on this machine, in one temporary folder."""

import getpass
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue")
NODES = ("r1", "r2")
CPUS_PER_NODE = 2
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")

CONF = """
ClusterName=private
SlurmctldHost=localhost
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdLogFile={folder}/slurmd.%n.log
SlurmctldLogFile={folder}/slurmctld.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=10
KillWait=5
MessageTimeout=30
SchedulerParameters=bf_interval=1,sched_interval=1
{nodes}
PartitionName=main Nodes={names} Default=YES State=UP
"""


def missing_programs() -> list[str]:
    """Programs of Slurm that are not on this machine (Debian: slurm-wlm and munge)."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    return [name for name in PROGRAMS if shutil.which(name, path=path) is None]


class PrivateSlurm:
    """Started by `__init__`, ended by `close`; its commands run with the environment `env`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="s", dir="/tmp"))  # sockets lie below: a short path
        (self.folder / "state").mkdir()
        controller_port, *ports = free_ports(1 + len(NODES))
        lines = [
            f"NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs={CPUS_PER_NODE} "
            "RealMemory=4000"
            for name, port in zip(NODES, ports, strict=True)
        ]
        values = {"folder": self.folder, "user": getpass.getuser(), "controller_port": controller_port}
        conf = self.folder / "slurm.conf"
        conf.write_text(CONF.format(**values, nodes="\n".join(lines), names=",".join(NODES)))
        python = Path(sys.executable).parent
        # A job must find this checkout, whatever the environment has installed, and no cluster of the caller's.
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "RAY_"))}
        path = f"{python}:{os.environ['PATH']}:/usr/sbin"
        self.env = {**kept, "SLURM_CONF": str(conf), "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.env["HARNESS_TMP"] = str(self.folder)
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._start_munge()
        self._start("slurmctld", "-D", "-f", str(conf))
        for name in NODES:
            (self.folder / f"spool.{name}").mkdir()
            self.start_node(name)
        self._wait_for_idle(30)

    def _start(self, name: str, *arguments: str, key: str | None = None) -> None:
        with open(self.folder / f"{key or name}.out", "ab") as out:
            self.daemons[key or name] = subprocess.Popen(
                [name, *arguments], env=self.env, stdout=out, stderr=out, stdin=subprocess.DEVNULL
            )

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        subprocess.run(["mungekey", "-c", "-k", str(key)], check=True, env=self.env)
        names = ("socket", "pid-file", "log-file", "seed-file")
        files = [f"--{name}={self.folder}/munge.{name.removesuffix('-file')[:4]}" for name in names]
        self._start("munged", "--foreground", "--force", f"--key-file={key}", *files)

    def start_node(self, name: str) -> None:
        self._start("slurmd", "-D", "-f", self.env["SLURM_CONF"], "-N", name, key=name)

    def lose_node(self, name: str) -> None:
        """The node's daemon and everything that it has started, gone at once."""
        victims = [self.daemons.pop(name).pid]
        # Step managers leave the daemon's tree and take its processes along; they carry the node in their environment.
        victims += [process.pid for process in psutil.process_iter() if self._runs_on(process, name)]
        for pid in victims:
            try:
                psutil.Process(pid).kill()
            except psutil.NoSuchProcess:
                continue

    def _runs_on(self, process: psutil.Process, name: str) -> bool:
        try:
            environment = process.environ()
        except (psutil.Error, OSError):
            return False
        ours = environment.get("SLURM_CONF") == self.env["SLURM_CONF"]
        return ours and (environment.get("SLURMD_NODENAME") == name or f"-N {name}" in " ".join(process.cmdline()))

    def run(self, *command: str, cwd: Path | None = None) -> str:
        """Output of one of Slurm's commands."""
        done = subprocess.run(command, env=self.env, cwd=cwd, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def sbatch(self, cwd: Path, script: str, *arguments: str, options: tuple[str, ...] = ()) -> int:
        """Submit slurm/`script` from `cwd`; returns the job's number."""
        env = {**self.env, "HARNESS_SLURM": str(ROOT / "slurm")}
        command = ["sbatch", "--parsable", "--output=job-%j.out", *options, str(ROOT / "slurm" / script), *arguments]
        done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return int(done.stdout.strip().split(";")[0])

    def job(self, number: int | str) -> dict[str, str]:
        """What `scontrol show job` says."""
        words = self.run("scontrol", "show", "job", "-o", str(number)).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, number: int | str, timeout_s: float = 120.0) -> tuple[str, int]:
        """(state, exit code) of a job at its end. A requeued job is not left to wait its two minutes."""
        deadline = time.monotonic() + timeout_s
        released = set()
        while time.monotonic() < deadline:
            job = self.job(number)
            if job["JobState"] in ENDED:
                return job["JobState"], int(job["ExitCode"].split(":")[0])
            if job["JobState"] == "PENDING" and job["Restarts"] not in released:
                released.add(job["Restarts"])
                # Not at once: nodes refuse a job within the second in which they have killed it.
                self.run("scontrol", "update", f"JobId={number}", "StartTime=now+3")
            time.sleep(0.3)
        raise AssertionError(f"job {number} is still {self.job(number)['JobState']} after {timeout_s:g} s")

    def _wait_for_idle(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        states = ""
        while time.monotonic() < deadline:
            done = subprocess.run(["sinfo", "-h", "-o", "%T"], env=self.env, capture_output=True, text=True)
            states = done.stdout.split() if done.returncode == 0 else [done.stderr]
            if states == ["idle"]:
                return
            time.sleep(0.2)
        raise AssertionError(f"the private Slurm did not come up: {states}")

    def close(self) -> None:
        subprocess.run(["scancel", "--user", getpass.getuser()], env=self.env, capture_output=True)
        deadline = time.monotonic() + 15
        while self.run("squeue", "-h").strip() and time.monotonic() < deadline:
            time.sleep(0.2)
        for process in reversed(self.daemons.values()):
            process.terminate()
        for process in self.daemons.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
