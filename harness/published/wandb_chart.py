"""Charts exported from W&B as CSV: one column per run (`RUN - METRIC`), made into one row per run and position.

The file has no configurations: the total batch size and the seed must be in the names of the runs (`bs16-seed0`).
"""

import re
from collections.abc import Mapping, Sequence

from harness.plan.errors import UserError
from harness.plan.target import Target
from harness.published.columns import ReadingOptions
from harness.published.positions import unit_of
from harness.published.replicates import Row

SERIES = re.compile(r"(?P<run>.+) - (?P<metric>.+?)(?P<bound>__MIN|__MAX)?")
BATCH_SIZE = re.compile(
    r"(?<![a-z0-9])(?:(?:total_|global_)?batch_?size|(?:mini)?batch|tbs|bs)[ =:_-]?(\d+)(?![\d.])",
    re.I,
)
SEED = re.compile(r"(?<![a-z0-9])(?:seed|run|trial|rep|s)[ =:_-]?(\d+)(?![\d.])", re.I)
SIZE, RUN, CURVE = "total_batch_size", "seed", "curve"


def is_chart(header: Sequence[str], target: Target | None) -> bool:
    """Whether columns are runs: each series comes with its smallest and largest value, or is named by the target."""
    names = set(header)
    if target is not None and target.metric not in names and any(n.endswith(f" - {target.metric}") for n in names):
        return True
    return any(f"{name}__MIN" in names and f"{name}__MAX" in names for name in header)


def chart_rows(
    source: str, header: Sequence[str], rows: Sequence[Row], options: ReadingOptions
) -> tuple[list[str], list[Row]]:
    """Header and rows of a table of evaluations. UserError without a target, and for values that are averages."""
    target = options.target
    series = {name: match for name in header if (match := SERIES.fullmatch(name)) and not match["bound"]}
    metrics = list(dict.fromkeys(match["metric"] for match in series.values()))
    if target is None:
        raise UserError(f"{source} is a chart from W&B: give --target, e.g. --target '{metrics[0]}>=VALUE'")
    place = next((name for name in header if not SERIES.fullmatch(name)), "")
    if unit_of(place) is None and not options.headers("position"):
        raise UserError(
            f"{source}: what {place!r} counts is unknown: give --column position={place!r} with --unit, or export the "
            "chart over steps"
        )
    runs = {name: match["run"] for name, match in series.items() if match["metric"] == target.metric}
    if not runs:
        raise UserError(f"{source} has no metric {target.metric!r}: choose one of {', '.join(metrics)}")
    parts = {name: _parts(run) for name, run in runs.items()}
    has_sizes, has_curves = any(SIZE in part for part in parts.values()), len({p[CURVE] for p in parts.values()}) > 1
    long = []
    for name, part in parts.items():
        if has_sizes and SIZE not in part:
            raise UserError(f"{source}: the name of run {runs[name]} has no batch size, as the others have (bs16)")
        for row in rows:
            if not (value := row.text(name)):
                continue
            if any(row.text(f"{name}{bound}") not in ("", value) for bound in ("__MIN", "__MAX")):
                raise UserError(
                    f"{source}, line {row.number}: {name} is an average of several runs or steps (its __MIN or __MAX "
                    "differs): import the runs with harness track --from-wandb, or export them ungrouped"
                )
            cells = _cells(part, has_sizes, has_curves) | {place: row.text(place), target.metric: value}
            long.append(Row(row.number, source, cells))
    if not long:
        raise UserError(f"{source} has no value of {target.metric}")
    return list(long[0].cells), long


def _cells(part: Mapping[str, str], has_sizes: bool, has_curves: bool) -> dict[str, str]:
    """What a run's name says; without a batch size in it, the whole name tells runs apart."""
    if not has_sizes:
        return {RUN: part["name"]}
    return {SIZE: part[SIZE], RUN: part[RUN]} | ({CURVE: part[CURVE]} if has_curves else {})


def _parts(run: str) -> dict[str, str]:
    """The batch size, the seed and the rest of a run's name."""
    size, seed = BATCH_SIZE.search(run), SEED.search(run)
    rest = SEED.sub("", BATCH_SIZE.sub("", run))
    parts = {"name": run, RUN: seed[1] if seed else run, CURVE: re.sub(r"[ ,;:_-]{2,}", " ", rest).strip(" ,;:_-")}
    return parts | ({SIZE: size[1]} if size else {})
