"""DAWNBench entries: a TSV of epoch, hours and accuracy, and a JSON beside it that may name the batch size."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.plan.errors import UserError
from harness.plan.target import Target
from harness.published.curves import Meaning, PublishedArm, PublishedCurve, curve, parse_unit
from harness.published.evaluations import hits

# The competition's own targets, in per cent: ImageNet's tables have a top-5 column, CIFAR-10's do not.
TARGETS = (("top5Accuracy", 93.0), ("top1Accuracy", 94.0))


def read_dawnbench(
    path: Path, target: Target | None, unit: str | None, batch_size: int | None, label: str | None
) -> list[PublishedCurve]:
    """One TSV, or every TSV of a folder; an entry is one run of its own recipe. Places are epochs, or seconds.

    Entries that name no batch size are left out of a folder and named in the curve's source.
    """
    wanted = parse_unit(unit) if unit else "epochs"
    if wanted not in ("epochs", "seconds"):
        raise UserError(f"DAWNBench entries give epochs and seconds, not {unit}")
    files = sorted(path.glob("*.tsv")) if path.is_dir() else [path]
    runs: dict[int, list[Any]] = {}
    left_out, asked = [], None
    for file in files:
        rows = _rows(file)
        size = batch_size or _batch_size(file.with_suffix(".json"))
        if size is None:
            left_out.append(file.stem)
            continue
        asked = target or _own_target(file, rows[0])
        name = _column(file, rows[0], asked.metric)
        place = [row["epoch"] if wanted == "epochs" else 3600 * row["hours"] for row in rows]
        runs.setdefault(size, []).append(hits(place, [row[name] for row in rows], asked).observation)
    if asked is None:
        raise UserError(f"{path}: no entry names its batch size: give --batch-size N")
    without = f"; without a batch size and left out: {', '.join(left_out)}" if left_out else ""
    arms = [PublishedArm(size, tuple(found), len(found), note="single runs") for size, found in runs.items()]
    title = label or f"DAWNBench {path.stem if path.is_file() else path.parent.name or path.name}"
    said = f"first {asked.metric} {'>=' if asked.mode == 'max' else '<='} {asked.value:g}"
    return curve(title, f"{path.name}{without}", wanted, Meaning.TO_TARGET, arms, target=said)


def _rows(path: Path) -> list[dict[str, float]]:
    """Rows of numbers by the header's names; UserError names a file that is none of these."""
    lines = [
        line.split() for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines() if line.strip()
    ]
    if not lines or not {"epoch", "hours"} <= set(lines[0]):
        raise UserError(f"{path.name} is no DAWNBench table: its header must name epoch, hours and an accuracy")
    rows = [{key: _number(cell) for key, cell in zip(lines[0], line, strict=False)} for line in lines[1:]]
    rows = [row for row in rows if len(row) == len(lines[0]) and not math.isnan(row["epoch"])]
    if not rows:
        raise UserError(f"{path.name} has no row of numbers")
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
        raise UserError(f"{path.name} has no column {metric!r}: there are {', '.join(row)}")
    return metric


def _batch_size(path: Path) -> int | None:
    """The first whole number under a key that speaks of a batch size, or after such an option of a command line."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return None
    for key, value in _leaves(content):
        if "batch" in key.lower() and re.fullmatch(r"\s*\d+\s*", str(value)):
            return int(value)
    found = re.search(r"--batch[-_]?size[= ](\d+)", json.dumps(content))
    return int(found.group(1)) if found else None


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _leaves(item, str(name))
    else:
        yield key, value
