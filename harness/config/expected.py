"""What a key of the configuration takes, in words, according to the annotations of the classes that it becomes."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin

from harness.config.configuration import ConfigurationValues, resolved_hints
from harness.plan.duration import Duration
from harness.plan.errors import UserError
from harness.plan.imports import import_named

WORDS: dict[Any, tuple[str, str]] = {
    bool: ("true or false", "true and false"),
    int: ("an integer", "integers"),
    float: ("a number", "numbers"),
    str: ("a string", "strings"),
}


def hint_at(key: str) -> Any:
    """The annotation of a dotted key, below a mapping of free keys that of its values; None where any value may stand
    and for a key that does not exist."""
    hint: Any = ConfigurationValues
    for name in key.split("."):
        hint = next((arg for arg in get_args(hint) if is_dataclass(arg)), hint)
        if get_origin(hint) is Mapping:
            return None if get_args(hint)[1] is Any else get_args(hint)[1]
        if not is_dataclass(hint) or hint is Duration:
            return None
        hint = resolved_hints(hint).get(name)  # pyright: ignore[reportArgumentType]
    return hint


def keys_of(key: str) -> list[str]:
    """The keys that a mapping takes which may be null; none for every other key."""
    classes = [arg for arg in get_args(hint_at(key)) if is_dataclass(arg)]
    return [field.name for cls in classes for field in fields(cls)]


def is_list(hint: Any) -> bool:
    return get_origin(hint) in (list, Sequence)


def described(hint: Any) -> str:
    """An annotation in words."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(described(arg) for arg in args)
    if hint is type(None):
        return "null"
    if hint is Duration:
        return "a duration with its unit, like {epochs: 5}"
    if is_list(hint):
        return f"a list of {WORDS[args[0]][1]}" if args[0] in WORDS else "a list"
    if is_dataclass(hint):
        return f"a mapping with the keys {', '.join(field.name for field in fields(hint))}"
    return WORDS[hint][0] if hint in WORDS else "a mapping like {key: value}" if origin is Mapping else str(hint)


def example(key: str, given: str) -> str:
    """How to write a list that was given as one value; empty where that is not what happened."""
    hint = hint_at(key)
    numbers = is_list(hint) and get_args(hint)[0] is int
    if not is_list(hint) or (numbers and not given.isdigit()) or not given or given[0] in "[{" or given == "null":
        return ""
    if key == "seeds" and 0 < int(given) <= 20:
        return f": for {given} seed{'s' * (int(given) > 1)} write seeds=[{','.join(map(str, range(int(given))))}]"
    return f": write {key}=[{given}]"


def arguments_of(target: object) -> list[str] | None:
    """Names that the class or function behind a dotted path takes as keywords; None where it takes any, or where that
    cannot be found out."""
    module, _, name = str(target).rpartition(".")
    try:
        parameters = inspect.signature(getattr(import_named(module), name)).parameters.values()
    except (UserError, ImportError, AttributeError, TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
