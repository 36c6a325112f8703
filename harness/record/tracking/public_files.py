"""A study's result files as they may leave it: without absolute paths, which resolved settings can contain (P25)."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILES = ("results.csv", "results.json", "report.html")
INSTEAD = "(path)"
WHOLE = re.compile(r"(~|/|[A-Za-z]:\\).*", re.DOTALL)  # a value that is a path
WITHIN = re.compile(r"(?<![\w/.:>~-])~?(?:/[\w.@+-]+){2,}")  # one in a sentence
QUOTES = ('"', "&#34;", "&quot;")  # in JSON, and in the page


def write_public_files(folder: Path, target: Path) -> list[Path]:
    """Copy those of FILES that exist from `folder` to `target`; returns the copies."""
    values = list(_texts(json.loads((folder / "results.json").read_text(encoding="utf-8"))))
    whole = {value for value in values if WHOLE.fullmatch(value)}
    within = {path for value in values for path in WITHIN.findall(value)}
    copies = []
    for name in FILES:
        if (folder / name).is_file():
            text = (folder / name).read_text(encoding="utf-8")
            copies.append(target / name)
            copies[-1].write_text(_without(text, whole, within), encoding="utf-8")
    return copies


def without_paths(sentences: str) -> str:
    """Prose without the absolute paths in it."""
    return WITHIN.sub(INSTEAD, sentences)


def _texts(value: Any) -> Iterator[str]:
    """Every string in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _without(text: str, whole: set[str], within: set[str]) -> str:
    for value in whole:
        for quote in QUOTES:
            text = text.replace(f"{quote}{json.dumps(value)[1:-1]}{quote}", f"{quote}{INSTEAD}{quote}")
    for path in sorted(within, key=len, reverse=True):
        text = text.replace(path, INSTEAD)
    return text
