"""harness submit +experiment=NAME cluster=slurm ...: the same sweep as a Slurm job."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.commands.entry import command, find_own_classes
from harness.commands.help import print_help_if_asked
from harness.config.arguments import command_line
from harness.config.configuration import Configuration
from harness.config.places import slurm_folder
from harness.plan.cluster import ClusterConfig, Slurm
from harness.plan.errors import UserError
from harness.plan.exit_codes import ExitCode

SLURM_IS_EARLY_S = 60  # Slurm may send its warning this much earlier than asked for
SBATCH_S = 60.0


@command
def main(arguments: Sequence[str]) -> int:
    """Submit the job and print how to follow it; with dry_run=true only print the command."""
    if print_help_if_asked(arguments):
        return ExitCode.DONE
    find_own_classes()
    config = command_line(arguments)
    if config is not None:
        submit(config, arguments)
    return ExitCode.DONE


def submit(config: Configuration, arguments: Sequence[str]) -> None:
    """Submit the command line `arguments`, composed into `config`, with sbatch; UserError if Slurm rejects it."""
    study, slurm = config.folder, _request(config.cluster)
    command = sbatch_command(config.cluster, slurm, study, arguments)
    if config.dry_run:
        print(shlex.join(command))
        return
    if shutil.which("sbatch") is None:
        raise UserError("sbatch is not on PATH: run this where Slurm jobs are submitted, or use cluster=local")
    study.mkdir(parents=True, exist_ok=True)  # Slurm writes the job's log there
    # The job needs this Python first on PATH, and the folder of our scripts, as Slurm runs copies of them.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**os.environ, "PATH": path, "HARNESS_SLURM": str(slurm_folder())}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SBATCH_S)
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"sbatch did not answer within {SBATCH_S:g} s: check that the Slurm controller is up"
        ) from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise UserError(
            f"Slurm rejected the job: {lines[-1].removeprefix('sbatch: ')}; the command was {shlex.join(command)}"
        )
    job = done.stdout.strip().split(";")[0]
    print(f"submitted job {job}: {shlex.join(command)}")
    print(f"watch:    harness status {study}")
    log = f"{job}_*" if slurm.array > 1 else job
    print(f"log:      tail -F {study}/slurm-{log}.out")
    print(f"pause:    scancel --batch --signal=USR1 {job}   (saves every trial, then requeues the job)")
    print(f"cancel:   scancel {job}")


def sbatch_command(cluster: ClusterConfig, slurm: Slurm, study: Path, arguments: Sequence[str]) -> list[str]:
    """The sbatch command; UserError for numbers with which no trial of this configuration could run."""
    _check(cluster, slurm)
    warning_s = int(cluster.grace_s) + SLURM_IS_EARLY_S
    values = {
        "job-name": f"harness-{study.name}",
        "output": f"{study}/slurm-{'%A_%a' if slurm.array > 1 else '%j'}.out",
        "open-mode": "append",
        "nodes": slurm.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": slurm.cpus_per_node,
        "gpus-per-node": slurm.gpus_per_node or None,
        "mem": slurm.memory_per_node,
        "time": slurm.time,
        "partition": slurm.partition,
        "account": slurm.account,
        "signal": f"B:USR1@{warning_s}",
    }
    flags = [f"--{name}={value}" for name, value in values.items() if value is not None]
    if slurm.array > 1:
        flags.append(f"--array=0-{slurm.array - 1}")
    flags += ["--requeue", *(["--no-kill"] if slurm.no_kill else []), *slurm.options]
    passed_on = [argument for argument in arguments if not argument.startswith("dry_run=")]
    if slurm.array > 1:
        passed_on.append("cluster.share_study=true")
    script = "one_node.sbatch" if slurm.nodes == 1 else "many_nodes.sbatch"
    return ["sbatch", "--parsable", *flags, str(slurm_folder() / script), *passed_on]


def _request(cluster: ClusterConfig) -> Slurm:
    """The Slurm part of the cluster; UserError if there is none."""
    if cluster.slurm is None:
        raise UserError("harness submit needs cluster=slurm: set cluster.slurm.nodes and the resources of each node")
    return cluster.slurm


def _check(cluster: ClusterConfig, slurm: Slurm) -> None:
    """Raises UserError unless the nodes can hold one trial."""
    gpus_per_worker = cluster.gpus_per_worker
    if gpus_per_worker is None:
        gpus_per_worker = 1.0 if slurm.gpus_per_node else 0.0
    node = slurm.cpus_per_node // cluster.cpus_per_worker
    if gpus_per_worker:
        node = min(node, int(slurm.gpus_per_node / gpus_per_worker + 1e-9))
    workers = cluster.workers_per_trial or cluster.max_workers_per_trial or 1  # W by TBS: checked in the job
    if slurm.nodes * node < workers:
        raise UserError(
            f"a trial needs {workers} workers of {cluster.cpus_per_worker} CPU and "
            f"{gpus_per_worker:g} GPU, but {slurm.nodes} node(s) of {slurm.cpus_per_node} CPUs and "
            f"{slurm.gpus_per_node} GPUs hold {slurm.nodes * node}: raise cluster.slurm.nodes, cpus_per_node or "
            "gpus_per_node, or lower cluster.workers_per_trial"
        )
