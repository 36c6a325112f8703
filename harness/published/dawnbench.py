"""DAWNBench entries: a TSV of epoch, hours and accuracy, and a JSON next to it that may give the batch size."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.plan.errors import UserError
from harness.plan.target import Target
from harness.published.curves import Meaning, PublishedArm, PublishedCurve, curve, parse_unit
from harness.published.evaluations import hits
from harness.published.text_table import read_text
from harness.statistics.estimates import Observation

# The competition's own targets, in percent: ImageNet's tables have a top-5 column, CIFAR-10's do not.
TARGETS = (("top5Accuracy", 93.0), ("top1Accuracy", 94.0))


def read_dawnbench(
    path: Path, target: Target | None, unit: str | None, batch_size: int | None, label: str | None
) -> list[PublishedCurve]:
    """One TSV, or every TSV of a folder. Positions are epochs, or seconds.

    An entry is one run of its own recipe, so entries are no replicates: of each batch size the best one is kept, and
    the others are counted. Entries of a folder without a batch size are left out and listed in the curve's source.
    """
    counted_in = parse_unit(unit) if unit else "epochs"
    if counted_in not in ("epochs", "seconds"):
        raise UserError(f"--unit of DAWNBench entries must be epochs or seconds, not {unit}")
    files = sorted(path.glob("*.tsv")) if path.is_dir() else [path]
    entries: dict[int, list[tuple[Observation, str]]] = {}
    left_out, goal = [], None
    for file in files:
        rows = _rows(file)
        size = batch_size or _batch_size(file.with_suffix(".json"))
        if size is None:
            left_out.append(file.stem)
            continue
        goal = target or _own_target(file, rows[0])
        name = _column(file, rows[0], goal.metric)
        places = [row["epoch"] if counted_in == "epochs" else 3600 * row["hours"] for row in rows]
        if not places == sorted(places) or places[0] < 0:
            raise UserError(f"{file.name}: its {counted_in} must be >= 0 and must not fall: keep the rows of one run")
        run = hits(places, [row[name] for row in rows], goal).observation
        entries.setdefault(size, []).append((run, file.stem))
    if goal is None:
        raise UserError(f"{path} has no entry with a batch size: give --batch-size N")
    without = f"; left out: {', '.join(left_out)} (no batch size)" if left_out else ""
    arms = [_best(size, of_size) for size, of_size in entries.items()]
    title = label or f"DAWNBench {path.stem if path.is_file() else path.parent.name or path.name}"
    goal_text = f"first {goal.metric} {'>=' if goal.mode == 'max' else '<='} {goal.value:g}"
    return curve(title, f"{path.name}{without}", counted_in, Meaning.TO_TARGET, arms, target=goal_text)


def is_plain_table(path: Path) -> bool:
    """Whether a .tsv is some other table with tabs: an entry's header has `epoch` and `hours`."""
    try:
        first = read_text(path).lstrip().partition("\n")[0]
    except UserError:
        return False
    return "\t" in first and not {"epoch", "hours"} <= set(first.split())


def _best(size: int, entries: Sequence[tuple[Observation, str]]) -> PublishedArm:
    """The entry that needed least; of several that missed, the one that was watched for longest."""
    run, name = min(entries, key=lambda entry: (entry[0].place, -entry[0].at_least if not entry[0].reached else 0.0))
    note = f"best of {len(entries)} entries: {name}" if len(entries) > 1 else f"a single run: {name}"
    return PublishedArm(size, (run,), len(entries), note=note)


def _rows(path: Path) -> list[dict[str, float]]:
    """Rows of numbers by column name; UserError for a file that is not a DAWNBench table."""
    lines = [
        line.split() for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines() if line.strip()
    ]
    if not lines or not {"epoch", "hours"} <= set(lines[0]):
        raise UserError(f"{path.name} is not a DAWNBench table: its header must have epoch, hours and an accuracy")
    rows = [{key: _number(cell) for key, cell in zip(lines[0], line, strict=False)} for line in lines[1:]]
    rows = [row for row in rows if len(row) == len(lines[0]) and not math.isnan(row["epoch"])]
    if not rows:
        raise UserError(f"{path.name} has no rows of numbers")
    return rows


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _own_target(path: Path, row: Mapping[str, float]) -> Target:
    for metric, value in TARGETS:
        if metric in row:
            return Target(metric, value, "max", confirm=1)
    raise UserError(f"{path.name} has no top1Accuracy or top5Accuracy: give --target METRIC>=VALUE")


def _column(path: Path, row: Mapping[str, float], metric: str) -> str:
    if metric not in row:
        raise UserError(f"{path.name} has no column {metric!r}: choose one of {', '.join(row)}")
    return metric


def _batch_size(path: Path) -> int | None:
    """The first integer under a key with `batch` in its name, or after --batch-size in a command line."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return None
    for key, value in _leaves(content):
        if "batch" in key.lower() and re.fullmatch(r"\s*\d+\s*", str(value)):
            return int(value)
    match = re.search(r"--batch[-_]?size[= ](\d+)", json.dumps(content))
    return int(match.group(1)) if match else None


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _leaves(item, str(name))
    else:
        yield key, value
