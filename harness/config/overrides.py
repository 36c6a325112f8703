"""Command-line overrides as a person writes them, turned into what Hydra's grammar and its merging take."""

import re

from harness.plan.duration import UNITS
from harness.plan.errors import UserError

GROUPS_OF_PARAMETERS = "parameter_groups"  # patterns of parameter names are keys and items below it
FACTORS = "parameter_groups.lr_factors"  # a mapping whose keys are patterns
LOSS = "workload.loss"  # a name or a mapping with a _target_
OVER_NULL = re.compile(r"\+*workload\.read_beside(?:\.(\w+))?=(.*)")  # null in some workloads, a mapping in others
SPECIAL = re.compile(r"([\[\](){}:=, ])")  # Hydra's grammar takes these in a text with a backslash only


def as_hydra_reads(override: str) -> list[str]:
    """The same with quotes, a plus or a whole duration where Hydra needs them; a loss by `_target_` replaces the other,
    where Hydra would merge the two."""
    written = _in_quotes(_whole_duration(_over_null(_patterns(override))))
    return [f"{LOSS}=null", written] if re.match(rf"\+*{re.escape(LOSS)}=\{{.*\b_target_:", written) else [written]


def key_of(override: str) -> str:
    """The dotted key, without plus, tilde and package."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def _in_quotes(override: str) -> str:
    """A value that Hydra's grammar takes in quotes only, such as study=été or output_dir=~/studies, in quotes."""
    key, _, value = override.partition("=")
    needs_quotes = not value.isascii() or value.startswith("~/")
    return f"{key}='{value}'" if needs_quotes and not set(value) & set("'\"\\[]{}(),$") else override


def _whole_duration(override: str) -> str:
    """`schedule.warmup={epochs: 5}` replaces a duration in another unit, where Hydra would merge the two into one."""
    found = re.fullmatch(rf"\+*([\w.]+)=\{{\s*({'|'.join(UNITS)})\s*:\s*([^,{{}}]+)\}}", override)
    if not found:
        return override
    key, given, amount = found.groups()
    whole = ", ".join(f"{unit}: {amount if unit == given else 'null'}" for unit in UNITS)
    return f"++{key}={{{whole}}}"


def _over_null(override: str) -> str:
    """A mapping where null may stand, or a key of it, as part of what holds it: Hydra merges it only from there."""
    found = OVER_NULL.fullmatch(override)
    if not found or not (found[1] or found[2].startswith("{")):
        return override
    return f"workload={{read_beside: {f'{{{found[1]}: {found[2]}}}' if found[1] else found[2]}}}"


def _patterns(override: str) -> str:
    """Patterns of parameter names, in every form: dots and stars in a key, [0-9] and quotes, with and without a plus.

    Hydra takes a key with dots for keys within keys, has no quotes around keys, and adds to a mapping with a plus only.
    """
    key, equals, value = override.partition("=")
    name, value = key.lstrip("+"), value.strip()
    if not equals or not f"{name}.".startswith(f"{GROUPS_OF_PARAMETERS}."):
        return override
    if name.startswith(f"{FACTORS}."):  # the rest of the key is one pattern
        name, value = FACTORS, f"{{{_escaped(_unquoted(name.removeprefix(f'{FACTORS}.')))}: {value}}}"
    elif (written := _rewritten(value, name)) is not None:
        value = written
    else:
        return override
    return f"++{name}={value}" if value.startswith("{") else f"{key}={value}"


def _rewritten(value: str, name: str) -> str | None:
    """A mapping or list in Hydra's grammar, other values as they are; None if its brackets do not match."""
    if value[:1] not in ("{", "["):
        return value
    closing = {"{": "}", "[": "]"}[value[0]]
    items = _split(value[1:-1], ",") if len(value) > 1 and value[-1] == closing else None
    if items is None:
        return None
    if closing == "]":
        return f"[{', '.join(item if _unquoted(item) != item else _quoted(item) for item in items if item)}]"
    written: dict[str, str] = {}
    for item in filter(None, items):
        *pattern, number = _split(item, ":") or [item]
        given = _unquoted(":".join(pattern))
        if "!" in given:
            raise UserError(f"{name}: the command line takes no pattern with !, like {given!r}: put it into a file")
        if given in written:
            raise UserError(f"{name} has {given!r} twice: give it once")
        inner = _rewritten(number, f"{name}.{given}")
        if not pattern or inner is None:
            return None
        written[given] = f"{_escaped(given)}: {inner}"
    return f"{{{', '.join(written.values())}}}"


def _split(text: str, separator: str) -> list[str] | None:
    """The pieces of a text between separators outside brackets and quotes; None if those do not match."""
    pieces, depth, quote = [""], 0, ""
    for letter in text:
        if letter == separator and not depth and not quote:
            pieces.append("")
            continue
        pieces[-1] += letter
        if quote or letter in "'\"":
            quote = "" if letter == quote else quote or letter
        else:
            depth += (letter in "[{") - (letter in "]}")
    return None if depth or quote else [piece.strip() for piece in pieces]


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _quoted(text: str) -> str:
    return f"'{text}'" if SPECIAL.search(text) or "!" in text else text


def _escaped(text: str) -> str:
    return SPECIAL.sub(r"\\\1", text)
