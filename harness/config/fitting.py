"""Whether a question's values fit its class, according to the class's signature and annotations."""

import inspect
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from harness.config.expected import described
from harness.config.explain import nearest
from harness.plan.errors import UserError


def check_question(make: Any, question: Mapping[str, Any]) -> None:
    """Raises UserError unless `make(design, **question)` is a call that its signature and annotations allow."""
    parameters = list(inspect.signature(make).parameters.values())[1:]  # the first one is the design
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    hints = _hints(make)
    for key, value in question.items():
        if key not in named and not open_ended:
            hint = f": choose one of {', '.join(named)}" if named else ": this question takes no keys"
            raise UserError(f"unknown key 'question.{key}'{nearest(key, named, 'question') or hint}")
        if key in hints and not fits(value, hints[key]):
            is_one = isinstance(value, int | float) and fits([value], hints[key])
            hint = f": write question.{key}=[{value}]" if is_one else ""
            raise UserError(f"question.{key} must be {described(hints[key])}, not {value!r}{hint}")
    missing = [name for name, p in named.items() if p.default is p.empty and name not in question]
    if missing:
        raise UserError(f"question.{missing[0]} must be given, e.g. question.{missing[0]}=...")


def fits(value: Any, hint: Any) -> bool:
    """Whether a configuration value fits an annotation; annotations beyond plain data accept everything."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, arg) for arg in args)
    if hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str):
        return isinstance(value, hint)
    if origin in (list, Sequence):
        return isinstance(value, list) and all(fits(item, args[0]) for item in value)
    return True


def _hints(make: Any) -> Mapping[str, Any]:
    try:
        return get_type_hints(make.__init__ if isinstance(make, type) else make)
    except (NameError, TypeError):
        return {}  # annotations that only a type checker can resolve
