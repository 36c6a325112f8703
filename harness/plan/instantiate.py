"""Objects from `{"_target_": "package.module.Class", ...}` without Hydra, checked before anything starts."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

from harness.plan.errors import UserError
from harness.plan.imports import import_named

T = TypeVar("T")


@dataclass(frozen=True)
class Deferred:
    """A spec given to an argument that its target lists in `lazy_arguments`: calling it builds the object."""

    spec: Mapping[str, Any]

    def __call__(self) -> Any:
        return instantiate(self.spec)


def instantiate(spec: Mapping[str, Any], *args: Any, **extra: Any) -> Any:
    """Call the spec's target with its keyword arguments (nested specs first), then `args` and `extra`."""
    target = resolve(spec)
    kwargs = build_arguments(spec)
    check_arguments(spec, *args, **extra)
    return target(*args, **{**kwargs, **extra})


def build_arguments(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The spec's keyword arguments, with nested specs instantiated, except for lazy ones (see Deferred)."""
    lazy = getattr(resolve(spec), "lazy_arguments", ())
    return {
        key: Deferred(value) if key in lazy and isinstance(value, Mapping) and "_target_" in value else _build(value)
        for key, value in spec.items()
        if key != "_target_"
    }


def instantiate_as(kind: type[T], role: str, spec: Mapping[str, Any], *args: Any) -> T:
    """What the spec gives; UserError unless it is a `kind`. `role`: what it is in the configuration, such as model."""
    value = instantiate(spec, *args)
    if not isinstance(value, kind):
        given = "None" if value is None else f"a {type(value).__name__}"
        raise UserError(f"{role} {spec['_target_']} must give a {kind.__module__}.{kind.__name__}, not {given}")
    return value


def resolve(spec: Mapping[str, Any]) -> Callable[..., Any]:
    """The class or function that a spec names; UserError with the nearest name where it does not exist."""
    path = spec.get("_target_")
    if not isinstance(path, str) or "." not in path:
        raise UserError(f"_target_ must be a dotted path like package.module.Class, not {path!r}")
    module_name, _, attribute = path.rpartition(".")
    module, rest = _import_prefix(module_name, path)
    target: Any = module
    for name in [*rest, attribute]:
        if not hasattr(target, name):
            near = get_close_matches(name, dir(target), 1)
            hint = f": did you mean {near[0]!r}?" if near else ""
            raise UserError(f"_target_ {path}: {getattr(target, '__name__', target)} has no {name!r}{hint}")
        target = getattr(target, name)
    if not callable(target):
        raise UserError(f"_target_ {path} must be a class or a function")
    return target


def _import_prefix(module_name: str, path: str) -> tuple[Any, list[str]]:
    """Import the longest importable prefix, so that nested classes and classmethods work too."""
    parts = module_name.split(".")
    for cut in range(len(parts), 0, -1):
        name = ".".join(parts[:cut])
        try:
            return import_named(name), parts[cut:]
        except ModuleNotFoundError:
            continue  # a class within a module, or a misspelt name
        except UserError as error:
            raise UserError(f"_target_ {path} cannot be imported: {error}") from error
    raise UserError(f"_target_ {path}: no module named {parts[0]!r} can be imported")


def check_arguments(spec: Mapping[str, Any], *args: Any, **extra: Any) -> None:
    """Raises UserError when the keyword arguments do not fit the target's signature, naming the nearest one."""
    target = resolve(spec)
    for nested in _specs_within(list(spec.values())):
        check_arguments(nested)
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):
        return  # a C callable may have no signature
    given = {key: value for key, value in spec.items() if key != "_target_"}
    parameters = signature.parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for key in given:
            if key not in parameters:
                near = get_close_matches(key, parameters, 1)
                hint = f"choose one of {', '.join(parameters)}" if parameters else "it takes no arguments"
                hint = f"did you mean {near[0]!r}?" if near else hint
                raise UserError(f"{spec['_target_']} has no argument {key!r}: {hint}")
    try:
        signature.bind(*args, **{**given, **extra})
    except TypeError as error:
        raise UserError(f"{spec['_target_']}: {error}") from error


def misfit(role: str, spec: Mapping[str, Any]) -> str | None:
    """The first argument that is not of the kind of its default, in words: a reason for a target that has failed.

    `role`: the key of the spec in the configuration, such as optimizer.
    """
    try:
        parameters = inspect.signature(resolve(spec)).parameters
    except (TypeError, ValueError):
        return None
    for key, value in spec.items():
        default = parameters[key].default if key in parameters else None
        if (kind := _kind(default)) is not None and _kind(value) != kind:
            given = "null" if value is None else repr(value)
            return f"{role}.{key} must be {kind}, not {given}"
    return None


def _kind(value: Any) -> str | None:
    """What a default says about the values that are allowed; None where it says nothing."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    is_numbers = isinstance(value, list | tuple) and value and {_kind(item) for item in value} == {"a number"}
    return f"a list of {len(value)} number{'s' * (len(value) > 1)}" if is_numbers else None


def _specs_within(value: Any) -> Iterator[Mapping[str, Any]]:
    """The outermost specs in nested lists and mappings."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield value
        else:
            yield from _specs_within(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _specs_within(item)


def _build(value: Any) -> Any:
    if isinstance(value, Mapping):
        built = {key: _build(item) for key, item in value.items()}
        return instantiate(value) if "_target_" in value else built
    if isinstance(value, list | tuple):
        return [_build(item) for item in value]
    return value
