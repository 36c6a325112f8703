"""The class that `question._target_` names: one of experiments/, or any class that Python can import."""

from collections.abc import Mapping
from typing import Any

from harness.config.explain import nearest
from harness.plan.errors import UserError
from harness.plan.imports import import_named

# What a question is -> its methods: see analyse.experiment.Experiment and commands.measurement.Measurement.
METHODS = {
    "an experiment": {"trials": "(records)", "conclude": "(records)"},
    "a measurement": {
        "announce": "(console, cluster)",
        "measure": "(gangs, study)",
        "report": "(console, rows, study, cluster, code)",
    },
}


def question_class(target: str) -> Any:
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
    named = getattr(module, name)
    if not callable(named):
        raise UserError(f"question._target_ {target!r} is not a class")
    if isinstance(named, type):
        check_methods(target, named)
    return named


def check_methods(target: str, question: object) -> None:
    """Raises UserError unless a class or its instance has all methods of one kind of question."""
    missing = {kind: [name for name in methods if not hasattr(question, name)] for kind, methods in METHODS.items()}
    if not all(missing.values()):
        return
    nearest_kind = max(METHODS, key=lambda kind: len(METHODS[kind]) - len(missing[kind]))
    needs = [f"{kind} needs {_listed(methods)}" for kind, methods in METHODS.items()]
    raise UserError(f"question._target_ {target!r} has no method {missing[nearest_kind][0]}: {'; '.join(needs)}")


def _listed(methods: Mapping[str, str]) -> str:
    *first, last = (f"{name}{arguments}" for name, arguments in methods.items())
    return f"{', '.join(first)} and {last}"
