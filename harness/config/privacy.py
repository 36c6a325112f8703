"""A study stores its configuration, so it must not contain a secret (P25)."""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from harness.plan.errors import UserError
from harness.plan.secrets import SHORTEST, is_secret_name, is_secret_value

SECRET_KEY = re.compile(r"(^|_)(api_?key|access_?key|secret_?key|private_?key|passw(or)?d|secret|token)$|token$")
VOCABULARY = re.compile(r"(bos|eos|pad|unk|mask|sep|cls|end|start)_token")  # of a language model
READS = re.compile(r"\boc\.env:\s*['\"]?(\w+)")


def refuse_interpolated_secrets(config: Any) -> None:
    """Raises UserError for a composed but unresolved value that reads a secret variable, whatever its value is."""
    for key, text in _texts(config, ""):
        for name in READS.findall(text):
            if is_secret_name(name):
                raise UserError(_contains(key, name))


def refuse_secrets(config: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    """Raises UserError for a value that is named like a secret, looks like one, or contains one from the environment.

    The message does not contain the value.
    """
    secrets = {
        name: value
        for name, value in environment.items()
        if is_secret_name(name) and len(value) >= SHORTEST and not _is_path(value)
    }
    for key, text in _texts(config, ""):
        for name, value in secrets.items():
            if value in text:
                raise UserError(_contains(key, name))
        if _is_secret_key(key.rpartition(".")[2].lower(), text) or is_secret_value(text):
            raise UserError(
                f"{key} looks like a secret, and a study stores its configuration: use an environment variable instead"
            )


def _contains(key: str, name: str) -> str:
    return (
        f"{key} contains the value of the environment variable {name}, and a study stores its configuration: read "
        f"{name} where it is used instead"
    )


def _is_secret_key(key: str, text: str) -> bool:
    return bool(text and SECRET_KEY.search(key)) and not VOCABULARY.fullmatch(key)


def _is_path(value: str) -> bool:
    """A path is not a secret, and every folder below it would look like one; a secret may begin with a slash."""
    parent = os.path.dirname(value.rstrip("/"))
    return (value.startswith("/") and parent != "/" and os.path.exists(parent)) or value.startswith(("./", "../", "~"))


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """(dotted key, string) of every string in the configuration."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _texts(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item, key)
    elif isinstance(value, str):
        yield key, value
