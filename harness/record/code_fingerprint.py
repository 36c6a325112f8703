"""Which code made a study's results, as a fingerprint of its syntax, and which older fingerprints give the same bits.

Comments, docstrings and formatting change no result, so they are not part of the fingerprint. The dotted name of a
module is: `_target_` and imports name it, and two modules that swapped names would otherwise go unnoticed. Any other
change in these packages that leaves every result the same (a moved module, a new function) is listed in compatible.json
once golden runs of both versions agree bit for bit (tests/golden/compare_commits.py).
"""

import ast
import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent.parent
NUMBER_PACKAGES = ("plan", "models", "datasets", "optimizers", "objectives", "train")
COMPATIBLE = Path(__file__).with_name("compatible.json")
# Fields of a syntax tree that do not affect what runs, or that only some versions of Python fill.
NOT_SYNTAX = frozenset(("ctx", "kind", "type_comment", "type_ignores"))

# As stored in study.json: the digests {"harness": ..., "own": ...}, where `own` is null for a study that uses none of
# the user's own files; a string (one digest over the bytes of all these files) in studies made up to commit ffbf2ab.
Fingerprint = str | Mapping[str, str | None]


def code_fingerprint(specs: Iterable[Mapping[str, Any]]) -> dict[str, str | None]:
    """Digests of the code that computes records: `harness` our packages, `own` the files of the classes in `specs`.

    Equal on every version of Python, and after every change that leaves the syntax tree the same. What a user's own
    file imports is not included.
    """
    files = ((path, PACKAGE / path) for path in _number_files(PACKAGE))
    ours = [f"{path} {_file_digest(place)}" for path, place in files]
    own = sorted({f"{name} {_file_digest(path)}" for spec in specs for name, path in _own_modules(spec)})
    return {"harness": _digest("\n".join(ours)), "own": _digest("\n".join(own)) if own else None}


def gives_the_same_numbers(stored: Fingerprint | None, now: Fingerprint) -> bool:
    """Whether the code that made a study (`stored`) and the code here (`now`) compute the same bits.

    They do if both fingerprints are equal, or if the stored one of our packages is listed in compatible.json. A string
    is listed only if it covers none of the user's files.
    """
    if stored == now:
        return True
    if stored is None or isinstance(now, str):
        return False
    if isinstance(stored, str):
        return stored in compatible_fingerprints() and now["own"] is None
    alike = stored.get("harness") in {now["harness"], *compatible_fingerprints()}
    return alike and stored.get("own") == now["own"]


def fingerprint_text(stored: Fingerprint | None) -> str:
    """For messages: `0123456789abcdef`, or `0123456789abcdef + own fedcba9876543210`."""
    if isinstance(stored, Mapping):
        own = f" + own {stored['own']}" if stored.get("own") else ""
        return f"{stored.get('harness')}{own}"
    return str(stored)


@cache
def compatible_fingerprints() -> frozenset[str]:
    """Fingerprints of older versions whose golden runs gave the same bits as this version's."""
    return frozenset(entry["fingerprint"] for entry in json.loads(COMPATIBLE.read_text(encoding="utf-8"))["entries"])


def syntax_text(source: str | bytes) -> str:
    """The syntax tree of a module as text, without docstrings. SyntaxError or ValueError if it is not Python.

    Not `ast.dump` or `ast.unparse`, because their output changes between versions of Python.
    """
    parts: list[str] = []
    _write(ast.parse(source), parts.append)
    return "".join(parts)


def _write(value: Any, emit: Callable[[str], None]) -> None:
    if isinstance(value, ast.AST):
        emit(type(value).__name__)
        emit("(")
        for name in value._fields:
            item = getattr(value, name, None)
            if name in NOT_SYNTAX or item is None:
                continue
            if isinstance(item, ast.JoinedStr) and name == "format_spec":
                item = _joined(item.values)
            elif isinstance(item, list):
                item = _joined(item) if isinstance(value, ast.JoinedStr) else [i for i in item if not _is_remark(i)]
            if item == []:
                continue  # a field that an older Python may not have
            emit(name)
            emit("=")
            _write(item, emit)
        emit(")")
    elif isinstance(value, list):
        emit("[")
        for item in value:
            _write(item, emit)
            emit(",")
        emit("]")
    else:
        emit(ascii(value))


def _is_remark(statement: Any) -> bool:
    """Whether a statement is a docstring, or another string on its own."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _joined(values: Sequence[ast.expr]) -> list[Any]:
    """The parts of an f-string with neighbouring strings joined and none empty, as versions of Python differ."""
    parts: list[Any] = []
    for value in values:
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            if parts and isinstance(parts[-1], str):
                parts[-1] += value.value
            elif value.value:
                parts.append(value.value)
        else:
            parts.append(value)
    return parts


def _number_files(package: Path) -> list[str]:
    """Paths below `package`, with slashes, of the source files that compute records."""
    paths = (path for name in NUMBER_PACKAGES for path in (package / name).rglob("*.py"))
    return sorted(path.relative_to(package).as_posix() for path in paths)


def _file_digest(path: Path) -> str:
    stat = path.stat()
    return _digest_of_version(path, stat.st_mtime_ns, stat.st_size)


@cache
def _digest_of_version(path: Path, mtime_ns: int, size: int) -> str:
    """Digest of the file as of its last change; of its bytes if it is not Python source (e.g. a compiled module)."""
    content = path.read_bytes()
    try:
        return _digest(syntax_text(content))
    except (SyntaxError, ValueError, RecursionError):
        return hashlib.sha256(content).hexdigest()[:16]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _own_modules(spec: Any) -> Iterable[tuple[str, Path]]:
    """Names and files of the modules of a user's own targets; installed packages are covered by their versions."""
    if isinstance(spec, Mapping):
        target = spec.get("_target_")
        # `experiments.` always means the project's own folder, never a folder of that name in the working directory.
        if isinstance(target, str) and not target.startswith(("harness.", "torch.", "experiments.")):
            name, path = _module_of(target)
            if path and "site-packages" not in path.parts:
                yield name, path
        yield from _own_modules(list(spec.values()))
    elif isinstance(spec, list | tuple):
        for value in spec:
            yield from _own_modules(value)


def _module_of(target: str) -> tuple[str, Path | None]:
    """The module of a class or function, also of a nested one, and its file; None if the file is not found."""
    name = target
    while "." in name:
        name = name.rpartition(".")[0]
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            continue  # a class that contains the target
        return name, Path(spec.origin) if spec and spec.origin and Path(spec.origin).is_file() else None
    return name, None
