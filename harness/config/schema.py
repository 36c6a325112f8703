"""The schema that a composed configuration is checked against, derived from the classes that it becomes.

OmegaConf accepts neither frozen dataclasses nor Mapping and Sequence, so every class gets an unfrozen twin with the
same fields and the same defaults.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, field, fields, is_dataclass, make_dataclass
from functools import cache, reduce
from operator import or_
from types import UnionType
from typing import Any, Union, get_args, get_origin

from omegaconf import MISSING

from harness.config.configuration import ConfigurationValues, resolved_hints
from harness.plan.duration import Duration

# The folders of conf/ that a command chooses one file of; experiment is the one that it adds.
GROUPS = ("dataset", "model", "optimizer", "schedule", "lr_scaling", "workload", "cluster", "tracking")


@cache
def twin(cls: type) -> type:
    """The unfrozen twin of a dataclass; what has no default there is missing until a file or an override gives it."""
    hints = resolved_hints(cls)
    members = [(f.name, _schema_type(hints[f.name]), _default(f, hints[f.name])) for f in fields(cls)]
    return make_dataclass(cls.__name__, members, namespace={"__module__": __name__})


def _schema_type(hint: Any) -> Any:
    """An annotation as OmegaConf takes it."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType) and any(get_origin(arg) is Mapping for arg in args):
        return Any  # OmegaConf has unions of plain values only; the class checks the value
    if origin in (Union, UnionType):
        return reduce(or_, map(_schema_type, args))
    if hint is Duration:
        return dict[str, Any]  # {unit: amount}
    if is_dataclass(hint):
        return twin(hint)
    if origin is Mapping:
        return dict[args[0], _schema_type(args[1])]
    return list[_schema_type(args[0])] if origin is Sequence else hint


def _default(original: Field[Any], hint: Any) -> Any:
    if is_dataclass(hint) and hint is not Duration:
        assert original.default is NO_DEFAULT, original.name
        assert original.default_factory in (NO_DEFAULT, hint), original.name
        return field(default_factory=twin(hint))
    if original.default_factory is not NO_DEFAULT:
        return field(default_factory=original.default_factory)
    if original.default == ():
        return field(default_factory=list)
    return MISSING if original.default is NO_DEFAULT else original.default


SCHEMA = twin(ConfigurationValues)
