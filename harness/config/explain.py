"""Hydra's and OmegaConf's errors in one line each: what was given, what is allowed, the nearest valid name."""

import re
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from harness.config.schema import GROUPS
from harness.plan.duration import UNITS

HOW_TO_WRITE = "write key=value, a list as [1,2], a mapping as {key: value}, and quote the argument for your shell"


def unknown_choice(error: MissingConfigException) -> str:
    """The error for a config group that has no such file, or that does not exist."""
    missing = str(error.missing_cfg_file or "")
    group, _, name = missing.rpartition("/")
    options = list(error.options or [])
    if not group or not options:
        return f"unknown config group {missing!r}: choose one of {', '.join(['experiment', *GROUPS])}"
    hint = f"{nearest(name, options)} Choose" if nearest(name, options) else ": choose"
    return f"unknown {group} {name!r}{hint} one of {', '.join(sorted(options))}"


def explain(error: Exception, overrides: Sequence[str], all_keys: Callable[[], Iterable[str]]) -> str:
    """The error for anything else that composition rejects. `all_keys`: the dotted keys of a valid configuration."""
    cause = _deepest(error)
    text = f"{error}\n{cause}"
    file = re.match(r"In '([^']+)': .*\n", text)  # the mistake is in a file, not on the command line
    where = f"{file.group(1)}.yaml: " if file else ""
    match = re.search(r"full_key: (\S+)", text)
    full_key = getattr(cause, "full_key", None) or (match.group(1) if match else "")
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r}: {HOW_TO_WRITE}"
    if match := re.search(r"(?:Ambiguous value for argument|Sweep parameters) '(\S+?)=(.*?)'", text):
        key, value = match.groups()
        return f"cannot read {key}={value}: write a list as {key}=[1,2]; one command plans the whole sweep"
    if "Config group override must be a string" in text:
        return "a config group needs a name, not null: leave it out to keep its default"
    if match := re.search(r"Multiple values for (\w+)", text):
        return f"{match.group(1)} is given twice: give it once"
    if re.search(r"Key '[^']+' (is not in struct|not in ')", text):
        return where + _unknown_key(full_key, all_keys)
    if match := re.search(r"Could not override '([^']*)'\. No match in the defaults list", text):
        if match.group(1) == "experiment":
            return "write +experiment=NAME, with the plus sign"
        return _unknown_key(match.group(1), lambda: [*GROUPS, *all_keys()])
    lines = str(cause).strip().splitlines()[1 if file else 0 :]
    reason = lines[0] if lines else type(cause).__name__
    bare = full_key.partition("[")[0]
    given = next((o for o in overrides if bare and not file and o.lstrip("+~").partition("=")[0] == bare), full_key)
    return f"{where}{given}: {reason}" if given else where + reason


def missing_value(error: OmegaConfBaseException) -> str:
    """The error for a key that no file and no override gives, or for an interpolation that cannot be resolved."""
    key = getattr(error, "full_key", None)
    reason = str(error).splitlines()[0]
    if key and "missing" in reason.lower():
        return f"{key} must be given, e.g. {key}=..."
    return f"{key}: {reason}" if key else reason


def unreadable_file(error: YAMLError) -> str:
    """The error for a file that is not YAML, with the line where parsing stopped."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1}: {error.problem}"
    return str(error).splitlines()[0]


def nearest(word: str, options: Iterable[str], parent: str = "") -> str:
    """The hint that ends an error about `word`, a key below `parent`; empty if nothing resembles it."""
    near = get_close_matches(word, list(options), 1)
    return f": did you mean {f'{parent}.{near[0]}'.lstrip('.')!r}?" if near else ""


def _unknown_key(key: str, all_keys: Callable[[], Iterable[str]]) -> str:
    parent, _, name = key.rpartition(".")
    if key == "optimizer.lr":
        return "optimizer.lr is set by the LR rule: give workload.base_lr at workload.base_batch_size instead"
    keys = list(dict.fromkeys(all_keys()))
    names = [other.rpartition(".")[2] for other in keys if other.rpartition(".")[0] == parent]
    if not names:  # the parent itself is unknown or has no keys
        return f"unknown key {key!r}{nearest(key, keys)}"
    if set(names) <= set(UNITS):
        return f"unknown unit {name!r} of {parent}: write {parent}={{UNIT: number}} with one of {', '.join(UNITS)}"
    hint = nearest(name, names, parent) or f": choose one of {', '.join(names)}"
    return f"unknown key {key!r}{hint}"


def _deepest(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
