"""Hydra's and OmegaConf's errors in one line each: what was given, what is allowed, the nearest valid name."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from typing import Any, get_args

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from harness.config.expected import arguments_of, described, example, hint_at, is_list, keys_of
from harness.config.own_files import file_name
from harness.config.schema import GROUPS
from harness.plan.duration import UNITS

NOT_OF_TYPE = (
    "could not be converted|is not a valid|not Optional|Invalid (?:value|type) assigned|Cannot (?:assign|merge|convert)"
)
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


def explain(error: Exception, overrides: Sequence[str], all_values: Callable[[], Mapping[str, Any]]) -> str:
    """The error for anything else that composition rejects. `all_values`: dotted key -> value of a valid
    configuration."""
    cause = _deepest(error)
    text = f"{error}\n{cause}"
    file = re.match(r"In '([^']+)': .*\n", text)  # the mistake is in a file, not on the command line
    where = f"{file_name(file.group(1))}: " if file else ""
    match = re.search(r"full_key: (\S+)", text)
    full_key = getattr(cause, "full_key", None) or (match.group(1) if match else "")
    if isinstance(error, OverrideParseException):
        return unreadable(error.override)
    if match := re.search(r"(?:Ambiguous value for argument|Sweep parameters) '(\S+?)=(.*?)'", text):
        return _several_values(*match.groups())
    if "Config group override must be a string" in text:
        return "a config group needs a name, not null: leave it out to keep its default"
    if match := re.search(r"Multiple values for (\w+)", text):
        return f"{match.group(1)} is given twice: give it once"
    if file and full_key == "experiment":
        return f"{where}its first line must be `# @package _global_`, and below it a mapping like seeds: [0,1]"
    if re.search(r"Key '[^']+' (is not in struct|not in ')", text):
        return where + _unknown_key(full_key, all_values, overrides)
    if match := re.search(r"Could not override '([^']*)'\.", text):
        if match.group(1) == "experiment":
            return "write +experiment=NAME, with the plus sign"
        return _unknown_key(match.group(1), all_values, overrides)
    if "Could not delete" in text:
        removed = next(o for o in overrides if o.startswith("~"))
        key, equals, _ = removed[1:].partition("=")
        reason = "it has another value" if equals else _unknown_key(key, all_values, overrides)
        return f"{removed} removes nothing: {reason}"
    bare = full_key.partition("[")[0]
    matching = [o for o in overrides if bare and not file and o.lstrip("+~").partition("=")[0] == bare]
    given = matching[-1] if matching else full_key
    if given.startswith("~") and "does not support deletion" in text:
        return f"{bare} cannot be removed: give another value, or null where it may be empty"
    if isinstance(cause, AttributeError | AssertionError):  # OmegaConf has no words for this one
        return _over_null(overrides)
    if (hint := hint_at(bare)) is not None and re.search(NOT_OF_TYPE, text):
        value = given.partition("=")[2]
        found = re.search(r"Value '(.*?)' of type '(\w+)'", text)
        shown = value or (found.group(1) if found else "null" if "not Optional" in text else "what is there")
        return f"{where}{bare} must be {described(hint)}, not {shown}{example(bare, value)}"
    lines = str(cause).strip().splitlines()[1 if file else 0 :]
    reason = lines[0] if lines else type(cause).__name__
    return f"{where}{given}: {reason}" if given else where + reason


def unreadable(override: str) -> str:
    """The error for an argument that Hydra's grammar cannot read: how to write it, where that can be seen."""
    key, equals, value = override.partition("=")
    if not equals:
        return f"cannot read {override!r}: it is not key=value; {HOW_TO_WRITE}"
    for opening, closing in ("[]", "{}", "()"):
        if value.count(opening) < value.count(closing):
            return f"cannot read {override!r}: {opening} and {closing} do not match; {HOW_TO_WRITE}"
        if value.count(opening) > value.count(closing):
            return (
                f"cannot read {override!r}: {opening} and {closing} do not match; "
                f"quote the whole argument for your shell, like '{key}={_closed(value)}'"
            )
    if is_list(hint_at(key.lstrip("+~"))) and value[:1] != "[":
        value = f"[{value}]"
    items = value[1:-1].split(",") if re.fullmatch(r"\[[^\[\]{}'\"]*\]", value) else None
    quoted = f"[{','.join(map(_quoted, items))}]" if items else _quoted(value)
    if not set(value) & set("'\"{") and _parses(f"{key}={quoted}"):
        return f'cannot read {override!r}: quote the text inside the argument too, as "{key}={quoted}"'
    return f"cannot read {override!r}: {HOW_TO_WRITE}"


def _quoted(text: str) -> str:
    return text if _parses(f"key={text}") else f"'{text.strip()}'"


def _closed(value: str) -> str:
    """A mapping or list that the shell has cut at a space, completed with an ellipsis."""
    return value + " ..." + {"[": "]", "{": "}", "(": ")"}.get(value[:1], "")


def _parses(override: str) -> bool:
    try:
        return not OverridesParser.create().parse_override(override).is_sweep_override()
    except HydraException:
        return False


def _several_values(key: str, values: str) -> str:
    """The error for `key=a,b` and `key=range(5)`, which Hydra takes for a sweep of its own."""
    hint = hint_at(key)
    match = re.fullmatch(r"range\((\d{1,2})\)", values)
    items = ",".join(map(str, range(int(match.group(1))))) if match else values
    if key in GROUPS:
        return f"cannot read {key}={values}: choose one {key}; every other one needs a study of its own"
    if hint is str or str in get_args(hint):
        return f"cannot read {key}={values}: quote the text inside the argument too, as \"{key}='{values}'\""
    if hint is None or is_list(hint):
        return f"cannot read {key}={values}: write a list as {key}=[{items}]; one command plans the whole sweep"
    return (
        f"{key} takes one value, not {values}: one command plans the whole sweep; what varies is a list, such as "
        "question.total_batch_sizes=[16,64] seeds=[0,1,2]"
    )


def _over_null(overrides: Sequence[str]) -> str:
    """The error for `key={...}` and `key.name=...` where a file sets the mapping `key` to null."""
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        for prefix in (key, key.rpartition(".")[0]):
            if type(None) in get_args(hint := hint_at(prefix)) and any(map(is_dataclass, get_args(hint))):
                todo = "set it in a file of your own, such as an experiment in a --config-dir"
                return (
                    f"cannot apply {override!r}: {prefix} is null here, and the command line cannot put a mapping in "
                    f"its place: {'choose cluster=slurm' if prefix == 'cluster.slurm' else todo}"
                )
    return f"cannot compose the configuration from {' '.join(overrides)!r}: {HOW_TO_WRITE}"


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
        return f"{mark.name}, line {mark.line + 1}: {_in_words(error)}"
    return str(error).splitlines()[0]


def _in_words(error: MarkedYAMLError) -> str:
    """What YAML rejects, and how to write it where that is known."""
    problem = str(error.problem)
    if "'\\t'" in problem:
        return "there is a tab: indent with spaces"
    if "alias" in str(error.context):
        return "a name that begins with * needs quotes"
    return f"{problem} (within {{ }}, an interpolation ${{...}} needs quotes)" if "but got '{'" in problem else problem


def nearest(word: str, options: Iterable[str], parent: str = "") -> str:
    """The hint that ends an error about `word`, a key below `parent`; empty if nothing resembles it."""
    near = get_close_matches(word, list(options), 1)
    return f": did you mean {f'{parent}.{near[0]}'.lstrip('.')!r}?" if near else ""


def _unknown_key(key: str, all_values: Callable[[], Mapping[str, Any]], overrides: Sequence[str] = ()) -> str:
    parent, _, name = key.rpartition(".")
    if key == "optimizer.lr":
        return "optimizer.lr is set by the LR rule: give workload.base_lr at workload.base_batch_size instead"
    values = all_values()
    names = [other.rpartition(".")[2] for other in values if other.rpartition(".")[0] == parent] or keys_of(parent)
    if not names:  # the parent itself is unknown or has no keys
        return f"unknown key {key!r}{nearest(key, values)}"
    if set(names) <= set(UNITS):
        given = next((o.partition("=")[2] for o in overrides if o.lstrip("+~").startswith(f"{key}=")), None)
        if name in UNITS and given is None:
            return f"{parent} takes one unit: write {parent}={{UNIT: number}} with one of {', '.join(UNITS)}"
        if name in UNITS:
            return f"{parent} is in {' or '.join(names)} here: write the whole duration, {parent}={{{name}: {given}}}"
        return f"unknown unit {name!r} of {parent}: write {parent}={{UNIT: number}} with one of {', '.join(UNITS)}"
    if name in (arguments_of(values.get(f"{parent}._target_")) or ()):
        return f"{key} is not set here: to add that argument, write +{key}=..."
    if parent == "workload" and name in values:
        return f"unknown key {key!r}: it belongs at the top level, as {name}"
    if not parent and f"workload.{name}" in values:
        return f"unknown key {key!r}: it belongs below workload, as workload.{name}"
    hint = nearest(name, names, parent) or f": choose one of {', '.join(names)}"
    return f"unknown key {key!r}{hint}"


def _deepest(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
