"""MLPerf training logs: lines `:::MLLOG {json}` in any text file, one run a file (result_0.txt, ...).

A run's cost is where its last evaluation before `run_stop` stands, as mlcommons/logging's checker reads it; an aborted
run is a miss there. With a target the evaluations decide instead.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.plan.batch_factors import is_number
from harness.plan.errors import UserError
from harness.plan.target import Target
from harness.published.curves import Meaning, PublishedArm, PublishedCurve, curve, missed, observation
from harness.published.evaluations import hits
from harness.published.rcp_json import MOST_EPOCHS
from harness.published.replicates import LEAST_DISTINCT
from harness.statistics import words
from harness.statistics.estimates import Observation

MARK = ":::MLLOG"
LOGS = ("*.txt", "*.log", "*.out")
SEARCHED_BYTES = 1 << 20  # at the start of a file, for the first such line
# Where an evaluation stands, by the first of these keys in its metadata.
PLACES = {"samples_count": "examples", "epoch_num": "epochs", "epoch_count": "epochs", "step_num": "steps"}


@dataclass(frozen=True)
class LoggedRun:
    """One log."""

    name: str
    benchmark: str
    total_batch_size: int
    settings: Mapping[str, str]  # opt_*: what replicates have in common
    lr: float | None
    train_examples: int | None
    unit: str
    evaluations: tuple[tuple[float, float], ...]  # place and metric
    status: str  # success | aborted


def is_log(path: Path) -> bool:
    """Whether a file has such lines."""
    with path.open("rb") as file:
        return MARK.encode() in file.read(SEARCHED_BYTES)


def logs_of(folder: Path) -> list[Path]:
    """The logs in a folder, or below it, as in results/SYSTEM/BENCHMARK/result_0.txt."""
    here = sorted(path for pattern in LOGS for path in folder.glob(pattern) if path.is_file() and is_log(path))
    return here or sorted(path for path in folder.rglob("result_*.txt") if path.is_file() and is_log(path))


def read_mllog(
    files: Sequence[Path], source: str, target: Target | None, train_examples: int | None, label: str | None
) -> list[PublishedCurve]:
    """A curve for every benchmark. UserError for logs of one total batch size that differ in more than their seed."""
    read = [_read(file, target.metric if target else None) for file in files]
    runs = [run for run in read if run is not None]
    if not runs:
        raise UserError(f"{source} has no finished MLPerf run: its logs have no run_stop with a status")
    curves = []
    for benchmark, unit in dict.fromkeys((run.benchmark, run.unit) for run in runs):
        of_benchmark = [run for run in runs if (run.benchmark, run.unit) == (benchmark, unit)]
        copies = _copies(of_benchmark)
        kept = [run for run in of_benchmark if run.name not in copies]
        arms = []
        for size in dict.fromkeys(run.total_batch_size for run in kept):
            of_size = [run for run in kept if run.total_batch_size == size]
            _check_settings(of_size, source)
            if target is None:
                observed = tuple(_by_status(run) for run in of_size)
                arms.append(PublishedArm(size, observed, len(observed), lr=of_size[0].lr))
            else:
                met = tuple(hits([at for at, _ in run.evaluations], [m for _, m in run.evaluations], target)
                            for run in of_size)  # fmt: skip
                arms.append(
                    PublishedArm(size, tuple(hit.observation for hit in met), len(met), lr=of_size[0].lr, hits=met)
                )
        notes = [source]
        if unfinished := len(read) - len(runs):
            notes.append(f"{words.count(unfinished, 'log')} without run_stop left out")
        notes += [f"{name} left out as a copy of {same}" for name, same in copies.items()]
        curves += curve(
            label or f"MLPerf {benchmark}",
            "; ".join(notes),
            unit,
            Meaning.TO_TARGET,
            arms,
            target=str(target) if target else "quality target of the benchmark: run_stop with status success",
            train_examples=train_examples or kept[0].train_examples,
        )
    return curves


def _read(path: Path, metric: str | None) -> LoggedRun | None:
    """One log; None if its run never ended. UserError for what a run's log must have and has not."""
    values: dict[str, Any] = {}
    evaluations: list[tuple[float, float]] = []
    units: dict[str, None] = {}
    status: str | None = None
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if MARK not in line:
            continue
        event = _event(line, f"{path.name}, line {number}")
        key, value, metadata = str(event.get("key")), event.get("value"), event.get("metadata") or {}
        if key == (metric or "eval_accuracy") or (metric is None and key == "eval_error"):
            place = next((name for name in PLACES if is_number(metadata.get(name))), None)
            if place is None or not is_number(value):
                raise UserError(f"{path.name}, line {number}: an evaluation without {' or '.join(PLACES)}")
            units[PLACES[place]] = None
            evaluations.append((float(metadata[place]), float(value)))
        elif key == "run_stop":
            status = str(metadata.get("status"))
        elif key not in ("run_start", "eval_accuracy", "eval_error"):
            if key in ("submission_benchmark", "global_batch_size") and values.get(key, value) != value:
                raise UserError(f"{path.name}, line {number}: a second {key}, {value}: one log must be of one run")
            values[key] = value
    if status is None:
        return None
    size = values.get("global_batch_size")
    if not is_number(size) or size < 1 or not evaluations:
        what = "global_batch_size" if evaluations else f"evaluation ({metric or 'eval_accuracy'})"
        raise UserError(f"{path.name} has no {what}: it is no whole log of a run")
    if len(units) > 1:
        raise UserError(f"{path.name}: its evaluations are placed by {' and by '.join(units)}")
    unit = next(iter(units))
    if unit == "epochs" and max(at for at, _ in evaluations) > MOST_EPOCHS:
        raise UserError(f"{path.name}: epoch_num goes up to {max(at for at, _ in evaluations):g}: it counts no epochs")
    lr, samples = values.get("opt_base_learning_rate"), values.get("train_samples")
    return LoggedRun(
        path.name,
        str(values.get("submission_benchmark", "benchmark")),
        int(size),
        {key: str(value) for key, value in values.items() if key.startswith("opt_")},
        float(lr) if is_number(lr) else None,
        int(samples) if is_number(samples) and samples >= 1 else None,
        unit,
        tuple(evaluations),
        status,
    )


def _event(line: str, where: str) -> Mapping[str, Any]:
    try:
        event = json.loads(line[line.index(MARK) + len(MARK) :])
    except ValueError as error:
        raise UserError(f"{where}: {MARK} must be followed by JSON") from error
    if not isinstance(event, Mapping):
        raise UserError(f"{where}: {MARK} must be followed by a JSON object")
    return event


def _by_status(run: LoggedRun) -> Observation:
    at = run.evaluations[-1][0]
    if run.status != "success":
        return missed(at)
    before = [place for place, _ in run.evaluations if place < at]
    return observation(at, before[-1] if before else 0.0)


def _copies(runs: Sequence[LoggedRun]) -> dict[str, str]:
    """{log: the one it repeats}; few evaluations may agree by chance."""
    copies: dict[str, str] = {}
    first: dict[object, str] = {}
    for run in runs:
        same = first.setdefault((run.total_batch_size, run.evaluations, run.status), run.name)
        if same != run.name and len({metric for _, metric in run.evaluations}) >= LEAST_DISTINCT:
            copies[run.name] = same
    return copies


def _check_settings(runs: Sequence[LoggedRun], source: str) -> None:
    first = runs[0]
    for run in runs[1:]:
        keys = [key for key in {**first.settings, **run.settings} if first.settings.get(key) != run.settings.get(key)]
        if keys:
            raise UserError(
                f"{source}: {first.name} and {run.name} at TBS {run.total_batch_size:,} differ in {keys[0]} "
                f"({first.settings.get(keys[0])} and {run.settings.get(keys[0])}), and runs of one curve and TBS may "
                "differ in seed only: put them into folders of their own"
            )
