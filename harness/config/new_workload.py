"""A workload in one file: a commented template, or another workload with all of its groups written out."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.config.compose import compose_unresolved
from harness.config.own_files import PARTS, is_inline, keys_of_file
from harness.config.places import conf_folder
from harness.plan.duration import is_duration
from harness.plan.target import Target
from harness.plan.workload import WorkloadConfig

TEMPLATE = Path(__file__).with_name("template")
# Written even where it is the default: a workload should say it.
SAID = (
    *("metrics", "clip_norm", "read_beside", "batch_norm.span"),
    *("averaging.half_life_examples", "averaging.decide_on"),
)
ON_ONE_LINE = {field.name for field in fields(Target)}  # a target; durations too


def template(name: str, folder: str) -> tuple[str, str]:
    """The workload's file and the Python file with its data set and model."""
    values = {"NAME": name, "FOLDER": folder}
    texts = [(TEMPLATE / file).read_text(encoding="utf-8") for file in ("workload.yaml", "classes.py.txt")]
    workload, classes = (re.sub("NAME|FOLDER", lambda found: values[found[0]], text) for text in texts)
    return workload, classes


def written_out(name: str, origin: str, folder: str, config_dir: str | None) -> str:
    """Workload `origin` as the one file of a workload `name` that plans the same trials; UserError if there is no such
    workload. Interpolations and the comments of the files are kept."""
    values, choices = compose_unresolved(["+experiment=tbs_sweep", f"workload={origin}"], config_dir)
    usual, _ = compose_unresolved(["+experiment=tbs_sweep"])
    others = {key: value for key, value in values.items() if key not in (*PARTS, "workload", "question")}
    parts = {
        **{part: values[part] for part in PARTS},
        **_different(others, usual),
        "workload": {**_in_order(_said(WorkloadConfig, values["workload"])), "name": name},
    }
    lines = [
        f"# Workload {origin}, written out as one file.",
        f"# harness +experiment=tbs_sweep workload={name} --config-dir {folder} dry_run=true",
    ]
    comments = _comments("workload", origin, "", config_dir)
    for part, value in parts.items():
        if part in PARTS and not is_inline(choices[part]):
            comments = {**_comments(part, choices[part], f"{part}.", config_dir), **comments}
        lines += ["", *_block({part: value}, comments, "", "")]
    return "\n".join(lines) + "\n"


def _different(values: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """What of `values` is not `usual`, in mappings too."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        before = usual.get(key)
        if value != before:
            found[key] = _different(value, before) if isinstance(value, dict) and isinstance(before, dict) else value
    return found


def _said(cls: type, values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a dataclass that its defaults do not say, and those that a workload says anyway."""
    said: dict[str, Any] = {}
    for field in fields(cls):
        value, factory = values[field.name], field.default_factory
        if is_dataclass(factory):
            value = _said(factory, value, f"{field.name}.")
            is_default = not value
        else:
            default = field.default if factory is MISSING else factory()
            is_default = value == ([] if default == () else default)
        if not is_default or f"{prefix}{field.name}" in SAID:
            said[field.name] = value
    return said


def _in_order(workload: Mapping[str, Any]) -> dict[str, Any]:
    """The same keys in the order of the template, others last."""
    order = [*keys_of_file(TEMPLATE / "workload.yaml")["workload"], *workload]
    return {key: workload[key] for key in dict.fromkeys(order) if key in workload}


@dataclass(frozen=True)
class Comment:
    """What a file says about a key."""

    above: list[str]  # whole lines
    after: str


def _comments(group: str, name: str, prefix: str, config_dir: str | None) -> dict[str, Comment]:
    """Dotted key, with `prefix`, -> comment of a file and of the files that it builds on; the last one counts."""
    places = [
        folder / group / f"{name}.yaml" for folder in (conf_folder(), *([Path(config_dir)] if config_dir else []))
    ]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        return {}
    found: dict[str, Comment] = {}
    for base in keys_of_file(file).get("defaults", []):
        found |= _comments(group, base, prefix, config_dir) if isinstance(base, str) and base != "_self_" else {}
    above: list[str] = []
    parents: list[tuple[int, str]] = []  # (column, key) of the mappings that a line is in
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("#"):
            above += [line.strip()] if not line.startswith("# @") else []
        elif not line.strip():
            above = []  # a text of its own
        elif key := re.match(r"( *)(\w+):(?:.*?\s#\s+(.*))?", line):
            parents = [(column, parent) for column, parent in parents if column < len(key[1])]
            parents.append((len(key[1]), key[2]))
            if above or key[3]:
                found[prefix + ".".join(parent for _, parent in parents)] = Comment(above, key[3] or "")
            above = []
    return found


def _block(values: Mapping[str, Any], comments: Mapping[str, Comment], prefix: str, indent: str) -> Iterator[str]:
    """The lines of a YAML mapping; `prefix`: of its keys."""
    for key, value in values.items():
        comment = comments.get(f"{prefix}{key}", Comment([], ""))
        yield from (f"{indent}{line}" for line in comment.above)
        is_block = isinstance(value, dict) and value and not is_duration(value) and not set(value) <= ON_ONE_LINE
        text = f"{indent}{_yaml(key)}:" + ("" if is_block else f" {_yaml(value)}")
        yield f"{text}  # {comment.after}" if comment.after else text
        if is_block:
            yield from _block(value, comments, f"{prefix}{key}.", f"{indent}  ")


def _yaml(value: Any) -> str:
    """A value on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf)
    return text.removesuffix("\n").removesuffix("\n...")
