"""The class that `question._target_` names: one of experiments/, or any class that Python can import."""

from typing import Any

from harness.config.explain import nearest
from harness.plan.errors import UserError
from harness.plan.imports import import_named

METHODS = ("trials", "conclude")  # of every experiment


def experiment_class(target: str) -> Any:
    """The class behind a dotted path; UserError in one line where there is none or its module cannot be imported."""
    module_name, _, name = target.rpartition(".")
    if not module_name:
        raise UserError(f"question._target_ must be a dotted path like package.module.Class, not {target!r}")
    try:
        module = import_named(module_name)
    except (ModuleNotFoundError, UserError) as error:
        raise UserError(f"question._target_ {target!r} cannot be imported: {error}") from error
    if not hasattr(module, name):
        raise UserError(
            f"question._target_ {target!r}: {module_name} has no {name!r}{nearest(name, dir(module), module_name)}"
        )
    found = getattr(module, name)
    if not callable(found):
        raise UserError(f"question._target_ {target!r} is not a class")
    missing = [method for method in METHODS if isinstance(found, type) and not hasattr(found, method)]
    if missing:
        raise UserError(
            f"question._target_ {target!r} has no method {missing[0]}: an experiment needs "
            f"{' and '.join(f'{method}(records)' for method in METHODS)}"
        )
    return found
