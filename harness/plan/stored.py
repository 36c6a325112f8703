"""Reading a study folder that another version has written (docs/compatibility.md).

An older version's files lack fields: each takes its default, which is what that version did. A newer version's files
have fields, or a schema number, that this version does not know: that is an error of one line, never a guess.
"""

from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from harness import __version__
from harness.plan.errors import UserError

# Of everything in a study folder. It is increased when something that older versions read changes its meaning, but not
# when a field is only added.
SCHEMA = 1

T = TypeVar("T")


class NewerFormatError(UserError):
    """Something was stored by a newer version of harness; `reason` names what this version does not know of it."""

    def __init__(self, reason: str, subject: str = "this", remedy: str = "use the version that wrote it") -> None:
        super().__init__(f"{subject} was written by a newer version of harness ({reason}): {remedy}")
        self.reason = reason

    def of(self, subject: str, remedy: str = "use the version that wrote it") -> "NewerFormatError":
        """The same error about `subject`, e.g. `study default`."""
        return NewerFormatError(self.reason, subject, remedy)


def remedy(study: Any) -> str:
    """Which version can read a study that this one cannot; `study`: the content of its study.json, if it has one."""
    description = study if isinstance(study, Mapping) else {}
    version, commit = (description.get("versions") or {}).get("harness"), (description.get("git") or {}).get("commit")
    if version and version != __version__:
        return f"use harness >= {version}"
    return f"use the version that wrote it{f' (commit {commit[:12]})' if commit else ''}"


def from_fields(kind: type[T], value: Mapping[str, Any], name: str) -> T:
    """`kind(**value)` for a stored dataclass, called `name` in its file.

    Raises NewerFormatError if it has fields that `kind` does not have, KeyError if it lacks one without a default.
    """
    known = {field.name: field for field in fields(kind)}  # pyright: ignore[reportArgumentType]
    check_known(value, known, name)
    for field in known.values():
        if field.name not in value and field.default is field.default_factory is MISSING:
            raise KeyError(field.name)
    return kind(**value)


def check_known(value: Mapping[str, Any], known: Collection[str], name: str) -> None:
    """Raises NewerFormatError if a stored mapping has keys that are not `known`."""
    if unknown := [key for key in value if key not in known]:
        listed = ", ".join(repr(key) for key in unknown)
        raise NewerFormatError(f"it has {listed} in its {name}, which this version does not know")


def check_schema(value: Mapping[str, Any], name: str) -> None:
    """Raises NewerFormatError if the stored file `name` has a schema number above SCHEMA."""
    schema = value.get("schema", 1)
    if not (isinstance(schema, int) and schema <= SCHEMA):
        raise NewerFormatError(f"its {name} has schema {schema}, and this version reads up to {SCHEMA}")
