"""What a stored study names of its user's own: a reader imports it with --trust only (P29)."""

from harness.config.configuration import Configuration
from harness.plan.errors import UserError
from harness.plan.imports import EXPERIMENTS, import_named, shipped_folder


class UntrustedError(UserError):
    """A study whose report needs classes of its user's own."""


def refuse_own_classes(config: Configuration, study: str) -> None:
    """Raises UntrustedError if the question or a column of a stored study is not one of the harness's own.

    LR rules need no import: their LRs are in plan.jsonl.
    """
    target = str(config.question.get("_target_", ""))
    own = [] if is_shipped(target) else [f"question {target!r}"]
    own += [f"column {path!r}" for path in config.arm_columns]
    if own:
        raise UntrustedError(f"study {study} names code that does not come with the harness ({', '.join(own)})")


def is_shipped(target: str) -> bool:
    """Whether a dotted path names a class that is defined in a file of the harness's own experiments/, or nothing; only
    such a file is imported to find out."""
    package, _, rest = target.partition(".")
    module, _, name = rest.partition(".")
    if package != EXPERIMENTS or not (module.isidentifier() and name.isidentifier()):
        return False
    if not (shipped_folder(EXPERIMENTS) / f"{module}.py").is_file():
        return False
    named = getattr(import_named(f"{EXPERIMENTS}.{module}"), name, None)
    return named is None or (isinstance(named, type) and named.__module__ == f"{EXPERIMENTS}.{module}")
