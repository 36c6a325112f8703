"""Runs as stored by W&B, read from a folder of offline runs or from a server: full histories, never samples."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.plan.errors import UserError, one_line
from harness.record.scratch import scratch_folder
from harness.record.tracking.settings import SCRATCH, decide, environment, import_wandb

READ_S = 600.0  # time limit for one run's file
AT_ONCE = min(8, os.cpu_count() or 1)  # files: each needs a process that imports wandb


@dataclass
class RunRead:
    """One run: its configuration, history and summary."""

    run_id: str
    name: str = ""
    group: str = ""
    job_type: str = ""
    state: str = "crashed"  # finished | failed | crashed
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)  # of the history, by W&B's step
    overwritten: set[int] = field(default_factory=set)  # steps that two files of the run have, with other values


def read_runs(source: str) -> list[RunRead]:
    """The runs below a folder, or of entity/project or entity/project/group on the server, without report runs.

    UserError if there are none, or if the server cannot be used.
    """
    runs = _from_folder(Path(source)) if Path(source).exists() else _from_server(source)
    trials = [run for run in runs if run.job_type != "report"]
    if not trials:
        raise UserError(f"there is no W&B run in {source}")
    return trials


def _from_folder(folder: Path) -> list[RunRead]:
    """Every run file below the folder; parts of one run (an interrupted and a continued one) are joined."""
    files = sorted(folder.rglob("*.wandb"), key=lambda path: path.parent.name)
    runs: dict[str, RunRead] = {}
    with scratch_folder(SCRATCH) as scratch, ThreadPoolExecutor(AT_ONCE) as pool:
        read = pool.map(lambda path: _records(path.resolve(), scratch), files)
        for path, records in zip(files, read, strict=True):
            for record in records:
                _take(record, runs, path)
    return list(runs.values())


def _records(path: Path, scratch: Path) -> list[dict[str, Any]]:
    """The transaction log of one run through W&B's own reader, which skips a torn end and logs to `scratch`."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    variables = environment("offline", scratch, os.environ)
    done = subprocess.run(command, env=variables, cwd=scratch, capture_output=True, text=True, timeout=READ_S)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise UserError(f"{path} cannot be read: {lines[-1] if lines else 'no reason given'}")
    records = []
    for line in done.stdout.splitlines():
        with suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records


def _take(record: Mapping[str, Any], runs: dict[str, RunRead], path: Path) -> None:
    """Add one record to the run that the file belongs to: run-<id>.wandb."""
    run_id = path.stem.removeprefix("run-")
    run = runs.setdefault(run_id, RunRead(run_id))
    kind, content = record["type"], record.get(record["type"], {})
    if kind == "run":
        run.name, run.group = content.get("display_name", run_id), content.get("run_group", "")
        run.job_type = content.get("job_type", "")
        run.config |= content.get("config", {}).get("update", {})
    elif kind == "config":
        run.config |= content.get("update", {})
    elif kind == "summary":
        run.summary |= content.get("update", {})
    elif kind == "history":
        row = content["item"]
        step = int(row["_step"])
        if step in run.rows and _logged(run.rows[step]) != _logged(row):
            run.overwritten.add(step)
        run.rows[step] = row
    elif kind == "exit":
        run.state = "finished" if content.get("exit_code", 0) == 0 else "failed"


def _logged(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without what W&B adds, such as the time."""
    return {key: value for key, value in row.items() if not key.startswith("_")}


def _from_server(source: str) -> list[RunRead]:
    entity, _, rest = source.partition("/")
    project, _, group = rest.partition("/")
    if not entity or not project:
        raise UserError(
            f"--from-wandb must be an existing folder, entity/project or entity/project/group, not {source!r}"
        )
    decide("online")
    with scratch_folder(SCRATCH) as scratch:
        os.environ.update(environment("online", scratch, os.environ))
        wandb = import_wandb(scratch)

        try:
            api = wandb.Api(timeout=60)
            filters = {"group": group} if group else {}
            runs = [_of_api(run) for run in api.runs(f"{entity}/{project}", filters=filters, lazy=False)]
        except (wandb.Error, ValueError) as error:
            raise UserError(f"{source} cannot be read from W&B: {one_line(error)}") from error
        finally:
            wandb.teardown()
    return runs


def _of_api(run: Any) -> RunRead:
    rows = {int(row["_step"]): dict(row) for row in run.scan_history()}
    state = run.state if run.state in ("finished", "failed") else "crashed"
    summary = dict(run.summary_metrics)
    return RunRead(run.id, run.name, run.group or "", run.job_type or "", state, dict(run.config), summary, rows)
