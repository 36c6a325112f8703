"""Transforms as a configuration gives them: one callable or a list of them."""

from collections.abc import Callable, Sequence
from typing import Any

from harness.plan.errors import UserError

Transform = Callable[[Any], Any]
Transforms = Transform | Sequence[Transform]


def list_of_callables(key: str, given: Transforms | None) -> list[Transform]:
    """As a list, empty for None; UserError, naming the configuration's `key`, for what cannot be called."""
    if given is None:
        return []
    transforms: list[Any] = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    for transform in transforms:
        if not callable(transform):
            raise UserError(f"{key} must be callable, or a list of callables, not {transform!r}")
    return transforms
