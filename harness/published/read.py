"""Any published source by its name or path: a shipped table, a file in one of the known formats, a study's folder."""

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
from harness.published.csv_table import CsvTable, Finals, Told
from harness.published.curves import Meaning, PublishedArm, PublishedCurve, curve
from harness.published.dawnbench import read_dawnbench
from harness.published.rcp_json import is_collection, is_rcp, read_collection, read_rcp
from harness.published.shipped import SHIPPED, TABLES, Shipped
from harness.record.study import StudyFolder
from harness.statistics.estimates import scaled


@dataclass(frozen=True)
class Publication:
    """What one source holds."""

    name: str
    curves: tuple[PublishedCurve, ...] = ()
    finals: tuple[Finals, ...] = ()
    tables: tuple[Table, ...] = ()  # figures that are no cost over TBS, as they were published
    about: str = ""  # of a shipped table: what it is and where it comes from


def read(source: str | Path, told: Told | None = None) -> Publication:
    """Everything in `source`; UserError, in one line, for what cannot be read."""
    told = told or Told()
    shipped = SHIPPED.get(str(source))
    if shipped is not None:
        return _read_shipped(str(source), shipped, told)
    path = Path(source)
    if not path.exists():
        raise UserError(f"no file, folder or shipped table {str(source)!r}; shipped are {', '.join(SHIPPED)}")
    if path.is_dir():
        return Publication(path.name, tuple(_read_folder(path, told)))
    if path.suffix.lower() == ".json":
        return Publication(path.name, tuple(_read_json(path, told)))
    if path.suffix.lower() == ".tsv":
        found = read_dawnbench(path, told.target, told.unit, told.batch_size, told.label)
        return Publication(path.name, tuple(found))
    return _read_csv(path, told)


def _read_shipped(name: str, shipped: Shipped, told: Told) -> Publication:
    path, about = TABLES / shipped.file, f"{shipped.what}. {shipped.source}"
    if shipped.is_reference:
        with path.open(newline="") as file:
            header, *rows = csv.reader(file)
        return Publication(name, tables=(Table(name, header, rows),), about=about)
    defaults = replace(told, target=told.target or shipped.target, batch_size=told.batch_size or shipped.batch_size)
    found = _read_json(path, defaults) if path.suffix == ".json" else None
    publication = Publication(name, tuple(found)) if found is not None else _read_csv(path, defaults)
    curves = [one for one in publication.curves if shipped.only is None or one.label == f"MLPerf {shipped.only}"]
    named = [replace(one, source=shipped.source) for one in curves]
    finals = [replace(one, source=shipped.source) for one in publication.finals]
    return replace(publication, name=name, curves=tuple(named), finals=tuple(finals), about=about)


def _read_folder(path: Path, told: Told) -> Sequence[PublishedCurve]:
    """A study of ours (imported from W&B or measured), a batch_science tree, or a folder of DAWNBench tables."""
    if (path / "plan.jsonl").exists():
        return _read_study(path)
    if any(path.glob("*.tsv")):
        return read_dawnbench(path, told.target, told.unit, told.batch_size, told.label)
    if is_tree(path):
        return read_batch_science(path, told.target, told.label)
    raise UserError(f"{path} holds no study, no DAWNBench table (*.tsv) and no batch_science tree (study.json)")


def _read_study(path: Path) -> list[PublishedCurve]:
    """Epochs to target of every rule of a study, run by run."""
    records = Records(StudyFolder(path))
    arms: dict[str, Arm] = {}
    seeds: dict[str, list[int]] = {}
    for planned in records.folder.plan():
        arms[planned.trial.arm.label] = planned.trial.arm
        seeds.setdefault(planned.trial.arm.label, []).append(planned.trial.seed)
    by_rule: dict[str, list[PublishedArm]] = {}
    for label, arm in arms.items():
        found = records.of_arm(arm, dict.fromkeys(seeds[label]))
        size = arm.settings.train_examples
        runs = [scaled(result.observation(), 1 / size) for result in found]
        if runs:
            lr = arm.settings.peak_lr
            by_rule.setdefault(arm.scaling_rule, []).append(
                PublishedArm(arm.total_batch_size, tuple(runs), len(runs), lr=lr)
            )
    if not by_rule:
        raise UserError(f"{path.name} has no finished trial")
    first = next(iter(arms.values())).settings
    told: dict[str, Any] = {"target": str(first.target), "train_examples": first.train_examples}
    return [
        one
        for rule, found in by_rule.items()
        for one in curve(f"{path.name}: {rule}", path.name, "epochs", Meaning.TO_TARGET, found, **told)
    ]


def _read_json(path: Path, told: Told) -> list[PublishedCurve]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    if is_collection(content):
        found = read_collection(content, path.name, told.label)
    elif is_rcp(content):
        found = read_rcp(content, path.name, told.unit, told.label)
    else:
        raise UserError(f"{path.name} is no file of MLPerf reference points: records with BS and '... to converge'")
    return [replace(one, train_examples=told.train_examples) for one in found]


def _read_csv(path: Path, told: Told) -> Publication:
    table = CsvTable(path, told)
    if not table.is_evaluations():
        return Publication(path.name, tuple(table.costs()))
    if table.has_places:
        return Publication(path.name, tuple(table.evaluations()))
    return Publication(path.name, finals=tuple(table.finals()))
