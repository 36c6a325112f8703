"""Reads any published source by name or path: a shipped table, a file in one of the known formats, a study folder."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.analyse.results import Records
from harness.analyse.sections import Table
from harness.plan.errors import UserError
from harness.plan.trial import Arm
from harness.published.batch_science import is_tree, read_batch_science
from harness.published.columns import ReadingOptions
from harness.published.cost_table import CostTable
from harness.published.curves import Meaning, PublishedArm, PublishedCurve, curve
from harness.published.dawnbench import is_plain_table, read_dawnbench
from harness.published.evaluation_table import EvaluationTable, Finals
from harness.published.mllog import is_log, logs_of, read_mllog
from harness.published.rcp_json import is_collection, is_rcp, read_collection, read_rcp
from harness.published.shipped import SHIPPED, TABLES, Shipped
from harness.record.study import StudyFolder
from harness.statistics.estimates import scaled


@dataclass(frozen=True)
class Publication:
    """The content of one source."""

    name: str
    curves: tuple[PublishedCurve, ...] = ()
    finals: tuple[Finals, ...] = ()
    tables: tuple[Table, ...] = ()  # numbers that are not costs over TBS, as published
    about: str = ""  # of a shipped table: what it is and where it comes from
    used: frozenset[str] = frozenset()  # which of the reading options its format has a use for


def read(source: str | Path, options: ReadingOptions | None = None) -> Publication:
    """Everything in `source`; UserError, in one line, for what cannot be read."""
    options = options or ReadingOptions()
    shipped = SHIPPED.get(str(source))
    if shipped is not None:
        return _read_shipped(str(source), shipped, options)
    path = Path(source)
    if not path.exists():
        raise UserError(
            f"{str(source)!r} is not a file, a folder or a shipped table; the shipped tables are {', '.join(SHIPPED)}"
        )
    if path.is_dir():
        return _read_folder(path, options)
    if path.suffix.lower() == ".json":
        return _read_json(path, options)
    if is_log(path):
        return _read_logs([path], path.name, options)
    if path.suffix.lower() == ".tsv" and not is_plain_table(path):
        return _read_dawnbench(path, options)
    return _read_csv(path, options)


def _read_shipped(name: str, shipped: Shipped, options: ReadingOptions) -> Publication:
    path, about = TABLES / shipped.file, f"{shipped.what}. {shipped.source}"
    if shipped.is_reference:
        with path.open(newline="") as file:
            header, *rows = csv.reader(file)
        return Publication(name, tables=(Table(name, header, rows),), about=about)
    target, batch_size = options.target or shipped.target, options.batch_size or shipped.batch_size
    options = replace(options, target=target, batch_size=batch_size)
    publication = _read_json(path, options) if path.suffix == ".json" else _read_csv(path, options)
    curves = tuple(
        replace(cost, source=shipped.source)
        for cost in publication.curves
        if shipped.only is None or cost.label == f"MLPerf {shipped.only}"
    )
    finals = tuple(replace(final, source=shipped.source) for final in publication.finals)
    return replace(publication, name=name, curves=curves, finals=finals, about=about)


def _read_folder(path: Path, options: ReadingOptions) -> Publication:
    """A study of ours (imported from W&B or measured), a batch_science tree, DAWNBench tables or MLPerf logs."""
    if (path / "plan.jsonl").exists():
        return Publication(path.name, tuple(_read_study(path)))
    if any(path.glob("*.tsv")):
        return _read_dawnbench(path, options)
    if is_tree(path):
        curves = read_batch_science(path, options.target, options.label)
        return Publication(path.name, tuple(curves), used=frozenset(("target", "label")))
    if logs := logs_of(path):
        return _read_logs(logs, path.name, options)
    raise UserError(
        f"{path} has no study, no DAWNBench table (*.tsv), no batch_science tree (study.json) and no MLPerf log "
        "(:::MLLOG lines)"
    )


def _read_dawnbench(path: Path, options: ReadingOptions) -> Publication:
    curves = read_dawnbench(path, options.target, options.unit, options.batch_size, options.label)
    curves = tuple(replace(cost, train_examples=options.train_examples) for cost in curves)
    return Publication(path.name, curves, used=frozenset(("target", "unit", "batch_size", "train_examples", "label")))


def _read_logs(files: Sequence[Path], name: str, options: ReadingOptions) -> Publication:
    curves = read_mllog(files, name, options.target, options.train_examples, options.label)
    return Publication(name, tuple(curves), used=frozenset(("target", "train_examples", "label")))


def _read_study(path: Path) -> list[PublishedCurve]:
    """Epochs to target of every LR rule of a study, run by run; what else its arms vary keeps curves apart."""
    folder = StudyFolder(path)
    folder.check_planned()
    records = Records(folder)
    arms: dict[tuple[str, str], Arm] = {}
    seeds: dict[tuple[str, str], list[int]] = {}
    for planned in records.folder.plan():
        arm = planned.trial.arm
        key = (_curve_of(arm), arm.settings.identity_text)
        arms[key] = arm
        seeds.setdefault(key, []).append(planned.trial.seed)
    several = len({(arm.workload, arm.optimizer) for arm in arms.values()}) > 1
    by_rule: dict[tuple[str, str, int], list[PublishedArm]] = {}
    for key, arm in arms.items():
        results = records.of_arm(arm, dict.fromkeys(seeds[key]))
        settings = arm.settings
        runs = [scaled(result.observation(), 1 / settings.train_examples) for result in results]
        if runs:
            label = key[0] if several else " ".join([arm.scaling_rule, *arm.variant_words])
            published = PublishedArm(arm.total_batch_size, tuple(runs), len(runs), lr=settings.peak_lr)
            by_rule.setdefault((label, str(settings.target), settings.train_examples), []).append(published)
    if not by_rule:
        raise UserError(f"{path.name} has no finished trial")
    curves: list[PublishedCurve] = []
    for (label, target, size), arms_of_rule in by_rule.items():
        more: dict[str, Any] = {"target": target, "train_examples": size}
        curves += curve(f"{path.name}: {label}", path.name, "epochs", Meaning.TO_TARGET, arms_of_rule, **more)
    return curves


def _curve_of(arm: Arm) -> str:
    return " ".join([arm.workload, arm.optimizer, arm.scaling_rule, *arm.variant_words])


def _read_json(path: Path, options: ReadingOptions) -> Publication:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    if is_collection(content):
        curves, used = read_collection(content, path.name, options.label), ("train_examples", "label")
    elif is_rcp(content):
        curves = read_rcp(content, path.name, options.unit, options.label)
        used = ("unit", "train_examples", "label")
    else:
        raise UserError(f"{path.name} is not a file of MLPerf reference points (records with BS and '... to converge')")
    curves = tuple(replace(cost, train_examples=options.train_examples) for cost in curves)
    return Publication(path.name, curves, used=frozenset(used))


def _read_csv(path: Path, options: ReadingOptions) -> Publication:
    shared = {"label", "column", "column curve", "column ignore", "column run", "column total_batch_size", "column lr"}
    if options.target is None:
        costs = ("value", "unit", "meaning", "runs", "sd", "outcome", "target", "train_examples")
        used = shared | {"unit", "meaning", "train_examples"} | {f"column {role}" for role in costs}
        return Publication(path.name, tuple(CostTable(path, options).costs()), used=frozenset(used))
    table, used = EvaluationTable(path, options), shared | {"target", "batch_size"}
    if table.has_places:
        used |= {"unit", "train_examples", "column position"}
        return Publication(path.name, tuple(table.evaluations()), used=frozenset(used))
    return Publication(path.name, finals=tuple(table.finals()), used=frozenset(used - {"batch_size"}))


def check_used(options: ReadingOptions, publications: Sequence[Publication]) -> None:
    """UserError for an option that none of the sources has a use for."""
    used = frozenset[str]().union(*(publication.used for publication in publications))
    names = ", ".join(publication.name for publication in publications)
    for option in options.given():
        if option not in used:
            role = option.removeprefix("column ")
            shown = f"--column {role}=NAME" if role != option else f"--{option.replace('_', '-')}"
            raise UserError(f"{shown} has no effect on {names} as it was read: leave it out")
