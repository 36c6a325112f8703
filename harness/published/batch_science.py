"""Trees of Shallue et al. 2019 (batch_science): study.json, and metadata.json and measurements.csv of every trial."""

import csv
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.plan.errors import UserError
from harness.plan.target import Target
from harness.published.curves import Meaning, PublishedArm, PublishedCurve, curve, missed
from harness.published.evaluations import hits
from harness.statistics.estimates import Observation

GOALS = Path(__file__).parent / "tables" / "shallue2019_goals.csv"


@dataclass(frozen=True)
class _Best:
    """The trial of one study that met the goal in the fewest steps."""

    observation: Observation  # steps
    lr: float | None
    trial_id: int


def is_tree(path: Path) -> bool:
    """Whether a folder has such studies at any depth down to dataset/model/optimizer/batch_size."""
    return any(_studies(path))


def read_batch_science(path: Path, target: Target | None, label: str | None) -> list[PublishedCurve]:
    """A curve for every workload below `path`: the fewest steps of any complete trial strictly past the goal.

    The goal is `target`, else the paper's own for that data set and model. A study without a success is a miss at
    the end of its longest trial, never left out.
    """
    workloads: dict[tuple[str, str, str], list[tuple[Path, Mapping[str, Any]]]] = {}
    for folder in _studies(path):
        study = _json(folder / "study.json")
        key = (str(study.get("dataset")), str(study.get("model")), str(study.get("optimizer")))
        workloads.setdefault(key, []).append((folder, study))
    curves = []
    for (dataset, model, optimizer), studies in workloads.items():
        goal = _strictly(target) if target else _goal(dataset, model)
        arms = [_arm(folder, study, goal) for folder, study in studies]
        goal_text = f"{goal.metric} {'above' if goal.mode == 'max' else 'below'} {goal.value:.6g}"
        name = label if label and len(workloads) == 1 else f"{model} on {dataset}, {optimizer}"
        source = f"{path.name}; fewest steps of any complete trial"
        curves += curve(name, source, "steps", Meaning.TO_TARGET, arms, target=goal_text)
    return curves


def _studies(path: Path) -> Iterator[Path]:
    for depth in range(5):
        yield from (file.parent for file in sorted(path.glob("*/" * depth + "study.json")) if _is_study(file))


def _is_study(file: Path) -> bool:
    try:
        return "batch_size" in json.loads(file.read_text())
    except (OSError, ValueError):
        return False


def _arm(folder: Path, study: Mapping[str, Any], goal: Target) -> PublishedArm:
    statuses: Counter[str] = Counter()
    best, longest, met = None, 0.0, 0
    for file in sorted(folder.glob("*/metadata.json"), key=lambda file: (len(file.parent.name), file.parent.name)):
        trial = _json(file)
        statuses[str(trial.get("status"))] += 1
        if trial.get("status") != "COMPLETE":
            continue
        steps, metrics = _measurements(file.parent / "measurements.csv", goal.metric)
        run = hits(steps, metrics, goal).observation
        longest, met = max(longest, steps[-1] if steps else 0.0), met + run.reached
        if run.reached and (best is None or run.value < best.observation.value):
            best = _Best(run, (trial.get("parameters") or {}).get("learning_rate"), int(trial.get("trial_id", 0)))
    if not statuses["COMPLETE"]:
        raise UserError(f"{folder} has no complete trial")
    note = (
        f"best of {statuses['COMPLETE']} complete trials, {met} met the goal; "
        f"{statuses['INFEASIBLE']} diverged, {statuses['INCOMPLETE']} incomplete"
    )
    kept = best.observation if best else missed(longest)
    return PublishedArm(int(study["batch_size"]), (kept,), statuses["COMPLETE"], None, best.lr if best else None, note)


def _measurements(path: Path, metric: str) -> tuple[list[float], list[float]]:
    """Steps and the metric at each, in order, without step 0."""
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            if metric not in (reader.fieldnames or ()):
                raise UserError(f"{path} has no column {metric!r}: choose one of {', '.join(reader.fieldnames or ())}")
            rows = sorted({(float(row["step"]), float(row[metric] or "nan")) for row in reader})
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} must have a number in step and {metric} of every row") from error
    twice = next((step for (step, _), (after, _) in pairwise(rows) if step == after), None)
    if twice is not None:
        raise UserError(f"{path} has two values of {metric} at step {twice:g}: keep the rows of one run")
    rows = [row for row in rows if row[0] > 0]
    return [step for step, _ in rows], [value for _, value in rows]


def _goal(dataset: str, model: str) -> Target:
    with GOALS.open(newline="") as file:
        for row in csv.DictReader(file):
            if (row["dataset"], row["model"]) == (dataset, model):
                mode = "max" if row["direction"] == ">" else "min"
                return _strictly(Target(row["metric"], float(row["goal"]), mode, confirm=1))
    raise UserError(
        f"no goal is known for {model} on {dataset}: give --target, e.g. --target 'val/classification_error<=0.3'"
    )


def _strictly(target: Target) -> Target:
    """The goal of the paper: met at the first measurement strictly beyond the value."""
    beyond = math.nextafter(target.value, math.inf if target.mode == "max" else -math.inf)
    return Target(target.metric, beyond, target.mode, confirm=target.confirm)


def _json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path} is not a JSON object")
    return content
