"""One choice of an ablation: a workload with some of its values changed, written as in conf."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from harness.plan.duration import Duration, is_duration
from harness.plan.errors import UserError
from harness.plan.workload import Workload

KEPT = ("name", "train_examples", "optimizer_name", "placement")  # what a choice cannot be about


def with_changes(workload: Workload, changes: Mapping[str, Any]) -> Workload:
    """The workload with `changes` merged in, e.g. {"batch_norm": {"span_examples": 32}, "base_lr": 0.1}.

    A mapping with a different `_target_` replaces the old one completely. Raises UserError for a key that the workload
    does not have, and for values that it rejects.
    """
    return _merged(workload, changes, "")


def _merged(value: Any, changes: Mapping[str, Any], path: str) -> Any:
    allowed = {field.name for field in fields(value)} - ({*KEPT} if isinstance(value, Workload) else set())
    new: dict[str, Any] = {}
    for key, change in changes.items():
        if key not in allowed:
            raise UserError(
                f"a choice changes {path}{key}, which does not exist or cannot be changed: "
                f"choose one of {', '.join(sorted(allowed))}"
            )
        old = getattr(value, key)
        if isinstance(old, Duration):
            new[key] = Duration.parse(_mapping(change, path + key))
        elif is_dataclass(old):
            new[key] = _merged(old, _mapping(change, path + key), f"{path}{key}.")
        elif isinstance(old, Mapping):
            new[key] = _merged_mapping(old, _mapping(change, path + key))
        else:
            new[key] = change
    try:
        return replace(value, **new)
    except TypeError as error:  # e.g. a constructor compared a string with a number
        where = path.removesuffix(".") or "the workload"
        raise UserError(f"a choice sets {where} to {dict(changes)!r}: {error}") from error


def _merged_mapping(old: Mapping[str, Any], change: Mapping[str, Any]) -> Mapping[str, Any]:
    if change.get("_target_", old.get("_target_")) != old.get("_target_") or is_duration(change):
        return change
    both = {key: (old.get(key), item) for key, item in change.items()}
    merged = {
        key: _merged_mapping(before, item) if isinstance(before, Mapping) and isinstance(item, Mapping) else item
        for key, (before, item) in both.items()
    }
    return {**old, **merged}


def _mapping(change: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(change, Mapping):
        raise UserError(f"a choice must give {path} as keys and values like {{key: value}}, not {change!r}")
    return change
