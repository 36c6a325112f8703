"""A study stores its configuration, so it must not contain a secret (P25)."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from harness.plan.errors import UserError

SECRET_NAMES = re.compile(r"(^|_)(key|token|secret|password|passwd|credentials?)$", re.IGNORECASE)
SECRET_KEYS = ("api_key", "apikey", "password", "passwd", "secret", "token", "access_token", "auth_token")
SHORTEST = 8  # characters; anything shorter may match by chance


def refuse_secrets(config: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    """Raises UserError for a value that is named like a secret or contains one from the environment (e.g. by
    interpolation).

    The message does not contain the value.
    """
    secrets = {
        name: value
        for name, value in environment.items()
        # A path is not a secret, and every folder below it would look like one.
        if SECRET_NAMES.search(name) and len(value) >= SHORTEST and not value.startswith(("/", ".", "~"))
    }
    for key, text in _texts(config, ""):
        if key.rpartition(".")[2].lower() in SECRET_KEYS and text:
            raise UserError(
                f"{key} looks like a secret, and a study stores its configuration: use an environment variable instead"
            )
        for name, value in secrets.items():
            if value in text:
                raise UserError(
                    f"{key} contains the value of the environment variable {name}, and a study stores its "
                    f"configuration: read {name} where it is used instead"
                )


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
