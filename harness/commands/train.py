"""harness train trial.json, or torchrun -m harness.train trial.json: one trial without Ray, Hydra or W&B."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from harness.commands.entry import Parser, command, find_own_classes, print_error
from harness.objectives.objective import objective_named
from harness.plan.counted import count
from harness.plan.errors import UserError
from harness.plan.exit_codes import ExitCode
from harness.plan.instantiate import check_arguments
from harness.plan.stored import NewerFormatError, check_known, check_schema
from harness.plan.trial import Arm, Trial
from harness.record.files import read_json
from harness.record.journal import LostTrialError, read_trial
from harness.train.trainer import Execution
from harness.train.worker import COLLECTIVE_TIMEOUT, Task, Worker

TRIAL_FIELDS = ("trial_id", "seed", "topology", "settings")  # of a trial.json


@command
def main(arguments: Sequence[str]) -> int:
    """Exit code: 0 if the trial has a result (any outcome that is data), 1 if it has none, 2 for bad input."""
    parser = Parser(prog="harness train", description=__doc__)
    parser.add_argument("trial", type=Path, help="trial.json of a study, or a copy of one")
    parser.add_argument("--folder", type=Path, help="where journal and checkpoints go (default: next to trial.json)")
    options = parser.parse_args(arguments)
    find_own_classes()
    try:
        # Every rank reports an error: torchrun ends the others at the first exit, perhaps before rank 0 has printed it.
        run(read_task(options.trial, options.folder or options.trial.parent))
    except LostTrialError as error:
        print_error(error)
        return ExitCode.FAILED
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return ExitCode.DONE


def read_task(path: Path, folder: Path) -> Task:
    """The task of a trial.json, to be run in `folder`; UserError for a file or a folder that does not fit."""
    if path.is_dir():
        raise UserError(f"{path} is a directory, not a trial.json: give the path of the file")
    value = read_json(path)
    if not isinstance(value, Mapping):
        raise UserError(f"{path} is not a trial.json: it is missing or not a JSON object")
    try:
        check_schema(value, "file")
        check_known(value, (*TRIAL_FIELDS, "schema"), "file")
        task = Task.from_json(value, str(folder), Execution(hang_s=0.0))  # nothing would retry the trial
    except NewerFormatError as error:
        raise error.of(str(path)) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a trial.json: {type(error).__name__} {error}") from error
    # The labels of an arm are not part of its identity.
    trial_id = Trial(Arm("", "", "", 1, 1.0, task.settings), task.seed).trial_id
    if task.trial_id != trial_id:
        raise UserError(
            f"{path} has trial_id {task.trial_id!r}, but its settings and seed give {trial_id!r}: "
            "an edited trial needs its own id and its own folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"folder {folder} cannot be created ({error.strerror}): choose another --folder") from error
    if read_json(folder / "trial.json") not in (None, value):
        raise UserError(f"folder {folder} already has another trial: choose another --folder")
    return task


def check(task: Task, world_size: int) -> None:
    """Raises UserError for a task that cannot run here, before anything starts."""
    batch, settings = task.topology.batch, task.settings
    if batch.world_size != world_size:
        raise UserError(
            f"this trial's batch is {batch}, but {world_size} rank{'s' * (world_size > 1)} were started: "
            f"use torchrun --nproc-per-node {batch.world_size}"
        )
    if task.topology.device == "cuda" and not torch.cuda.is_available():
        raise UserError("this trial's topology has device cuda, but torch sees no GPU here")
    for spec in (settings.dataset, settings.model, settings.schedule):
        check_arguments(spec)
    check_arguments(settings.optimizer, [])
    objective_named(settings.loss)


def run(task: Task) -> None:
    """Run or resume the trial on this rank, as given by torchrun's environment variables."""
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    check(task, world_size)
    if (done := read_trial(Path(task.folder))).is_finished:
        if rank == 0:
            print(f"already finished: {done.outcome}, ended after {count(done.record['epochs'], 'epoch')}", flush=True)
        return
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if task.topology.device == "cuda" else "cpu"
    worker = Worker(rank, world_size, device, torch.get_num_threads())
    if world_size > 1:
        if device != "cpu":
            torch.cuda.set_device(device)
        dist.init_process_group("gloo" if device == "cpu" else "nccl", timeout=COLLECTIVE_TIMEOUT)
    try:
        worker.start(task)
        while rows := worker.advance(0.0):
            for line in (describe(row, task.settings.averaging.decide_on) for row in rows):
                if rank == 0 and line:
                    print(line, flush=True)
    finally:
        worker.stop()


def describe(row: Mapping[str, Any], decide_on: str) -> str:
    """One plain line for a row of the journal; empty for rows that are not worth printing."""
    if row["kind"] == "evaluation":
        scores = row["validation"].get(decide_on, {})
        metrics = "".join(f", {name} {value:.4f}" for name, value in scores.items())
        return f"step {row['step']}: {count(row['epochs'], 'epoch')}, train loss {row['train_loss']:.4f}{metrics}"
    if row["kind"] == "end":
        metrics = "".join(f", test {name} {value:.4f}" for name, value in row["test"].items())
        return f"{row['outcome']}, ended at step {row['step']}{metrics}"
    return f"resumed from step {row['step']}" if row["kind"] == "ready" and row["step"] else ""
