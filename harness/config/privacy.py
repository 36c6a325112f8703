"""A study keeps its configuration, so no secret may be in one (P25)."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from harness.plan.errors import UserError

SECRET_NAMES = re.compile(r"(^|_)(key|token|secret|password|passwd|credentials?)$", re.IGNORECASE)
SECRET_KEYS = ("api_key", "apikey", "password", "passwd", "secret", "token", "access_token", "auth_token")
SHORTEST = 8  # characters; anything shorter turns up by chance


def refuse_secrets(config: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    """Raises UserError where a value is named like a secret, or holds one of the environment's (by interpolation, say).

    The value itself is not told.
    """
    known = {
        name: value
        for name, value in environment.items()
        # A path is no secret, and every folder below it would look like one.
        if SECRET_NAMES.search(name) and len(value) >= SHORTEST and not value.startswith(("/", ".", "~"))
    }
    for key, text in _texts(config, ""):
        if key.rpartition(".")[2].lower() in SECRET_KEYS and text:
            raise UserError(f"{key} looks like a secret, and a study keeps its configuration: use the environment")
        for name, value in known.items():
            if value in text:
                raise UserError(
                    f"{key} holds the value of the environment variable {name}, and a study keeps its configuration: "
                    f"read {name} where it is used instead"
                )


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """(dotted key, text) of every text in the configuration."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _texts(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item, key)
    elif isinstance(value, str):
        yield key, value
