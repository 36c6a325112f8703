"""Whether the parts of a configuration that name a class do so in a way that its constructor can be called."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.config.expected import arguments_of
from harness.config.explain import nearest
from harness.config.own_files import PARTS, chosen_parts, is_inline, keys_of_file
from harness.plan.errors import UserError

HYDRAS_OWN = ("_partial_", "_args_", "_convert_", "_recursive_")  # of hydra.utils.instantiate


def check_specs(values: Mapping[str, Any]) -> None:
    """Raises UserError unless every part has a `_target_` and its other keys can be arguments."""
    for part in PARTS:
        if "_target_" not in values[part]:
            raise UserError(f"{part} has no _target_: name its class, like _target_: package.module.Class")
    workload = values["workload"]
    checked = {**{part: values[part] for part in (*PARTS, "question")}, "workload.loss": workload["loss"]}
    for key, value in (*checked.items(), ("workload.metrics", workload["metrics"])):
        for place, spec in _mappings(value, key):
            _check_keys(place, spec)


def _check_keys(place: str, spec: Mapping[str, Any]) -> None:
    if unusable := [key for key in HYDRAS_OWN if key in spec]:
        raise UserError(
            f"{place}.{unusable[0]} is an option of Hydra's instantiate, which the harness does not use: give the "
            f"arguments as keys, or name a function of your own in {place}._target_"
        )
    target = spec.get("_target_", "a.b")
    if place != "question" and not (isinstance(target, str) and "." in target):
        given = "null" if target is None else repr(target)
        raise UserError(f"{place}._target_ must be a dotted path like package.module.Class, not {given}")


def check_changed_parts(file: Path, choices: Mapping[str, str], values: Mapping[str, Any]) -> None:
    """Raises UserError where a workload's file gives a part without `_target_` and keys that the default of the group
    does not take: its author means a class of their own."""
    given = keys_of_file(file)
    for part in PARTS:
        changes = given.get(part)
        is_chosen = part in chosen_parts(given) or is_inline(choices[part])
        if not isinstance(changes, Mapping) or "_target_" in changes or is_chosen:
            continue
        arguments = arguments_of(values[part].get("_target_"))
        for key in changes:
            if arguments is not None and key not in arguments:
                near = nearest(str(key), [*arguments, "_target_"], part)
                raise UserError(
                    f"workload/{file.name}: {part} has no _target_, so it changes {part}={choices[part]}, which has no "
                    f"{key!r}{near or f': to give a {part} of your own, add its _target_'}"
                )


def _mappings(value: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(dotted key, mapping) of every mapping in a value, itself included."""
    if isinstance(value, Mapping):
        yield key, value
        for name, item in value.items():
            yield from _mappings(item, f"{key}.{name}")
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from _mappings(item, f"{key}[{place}]")
