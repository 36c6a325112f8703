"""harness submit +experiment=NAME cluster=slurm ...: the same sweep as a Slurm job."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from harness.commands.entry import command, find_own_classes
from harness.commands.help import print_help_if_asked
from harness.config.arguments import command_line
from harness.config.configuration import Configuration
from harness.config.places import slurm_folder
from harness.plan.cluster import ClusterConfig, Slurm
from harness.plan.errors import UserError
from harness.plan.exit_codes import ExitCode
from harness.record.study import unwritable
from harness.record.submission import write_submission
from harness.record.tracking.settings import decide

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
    """Submit the command line `arguments`, composed into `config`, with sbatch; UserError if the job or Slurm would
    reject it."""
    study, slurm = config.folder, _request(config.cluster)
    check_job(config)
    command = sbatch_command(config.cluster, slurm, study, arguments)
    if config.dry_run:
        print(shlex.join(command))
        return
    if shutil.which("sbatch") is None:
        raise UserError("sbatch is not on PATH: run this where Slurm jobs are submitted, or use cluster=local")
    if config.tracking.mode == "online":
        decide("online")
    # The job needs this Python first on PATH, and the folder of our scripts, as Slurm runs copies of them.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**os.environ, "PATH": path, "HARNESS_SLURM": str(slurm_folder())}
    job = _submitted(command, environment, study)
    write_submission(study, job)
    print(f"submitted job {job}: {shlex.join(command)}")
    print(f"watch:    harness status {study}")
    log = f"{job}_*" if slurm.array > 1 else job
    print(f"log:      tail -F {study}/slurm-{log}.out")
    print(f"pause:    scancel --batch --signal=USR1 {job}   (saves every trial, then requeues the job)")
    print(f"cancel:   scancel {job}")


def check_job(config: Configuration) -> None:
    """Raises UserError for whatever the job would refuse once it runs, by the checks of the sweep itself; the nodes are
    those that Slurm will grant."""
    from harness.analyse.experiment import as_experiment
    from harness.commands.checks import check_folder, check_study, load_question
    from harness.commands.devices import of_slurm_job
    from harness.commands.measurement import Measurement
    from harness.commands.open_study import check_resumes
    from harness.commands.study_progress import StudyProgress

    _request(config.cluster)
    splits, design, question = load_question(config)
    if isinstance(question, Measurement):
        check_folder(config.folder)
        return
    devices = of_slurm_job(config.cluster)
    progress = StudyProgress(config, devices.cluster, design, as_experiment(question))
    check_study(progress, splits, devices.nodes)
    check_resumes(progress, splits)


def _submitted(command: Sequence[str], environment: Mapping[str, str], study: Path) -> str:
    """Run sbatch; returns the job's number. The study's folder exists afterwards, where Slurm writes the job's log,
    and is removed again if sbatch fails; UserError then."""
    created = [path for path in (study, *study.parents) if not path.exists()]
    try:
        study.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(study, error) from error
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SBATCH_S)
        if done.returncode == 0:
            return done.stdout.strip().split(";")[0]
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        reason = f"Slurm rejected the job: {lines[-1].removeprefix('sbatch: ')}; the command was {shlex.join(command)}"
    except subprocess.TimeoutExpired:
        reason = f"sbatch did not answer within {SBATCH_S:g} s: check that the Slurm controller is up"
    for path in created:
        with suppress(OSError):  # somebody else has put something there by now
            path.rmdir()
    raise UserError(reason)


def sbatch_command(cluster: ClusterConfig, slurm: Slurm, study: Path, arguments: Sequence[str]) -> list[str]:
    """The sbatch command."""
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
