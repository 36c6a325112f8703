"""Every way to damage a file, for the tests of what readers say of it."""

import random
import re
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path], object]


def _flip(seed: int) -> Damage:
    def flip(path: Path) -> None:
        moments, content = random.Random(f"{seed} {path.name}"), bytearray(path.read_bytes())
        if content:
            content[moments.randrange(len(content))] ^= 1 << moments.randrange(8)
        path.write_bytes(bytes(content))

    return flip


def _becomes(content: bytes) -> Damage:
    return lambda path: path.write_bytes(content)


def _numbers_become(value: bytes) -> Damage:
    return lambda path: path.write_bytes(re.sub(rb":( ?)-?\d[-+.e\d]*", rb":\1" + value, path.read_bytes()))


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "file").write_text("not ours")


def _link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _half(path: Path, more: bytes = b"") -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + more)


WAYS: dict[str, Damage] = {
    "empty": _becomes(b""),
    "half": _half,
    "half a line": lambda path: _half(path, b"\n"),
    "zeros": lambda path: _half(path, bytes(4096)),
    **{f"bit {seed}": _flip(seed) for seed in range(4)},
    "not UTF-8": lambda path: path.write_bytes(b"\xff" + path.read_bytes()),
    "UTF-16": lambda path: path.write_bytes(path.read_bytes().decode(errors="replace").encode("utf-16")),
    "deep lists": _becomes(b"[" * 100_000 + b"]" * 100_000 + b"\n"),
    "deep objects": _becomes(b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"\n"),
    "a list": _becomes(b"[]\n"),
    "a text": _becomes(b'"text"\n'),
    "a number": _becomes(b"3\n"),
    "null": _becomes(b"null\n"),
    "an empty object": _becomes(b"{}\n"),
    "numbers of 5000 digits": _numbers_become(b"1" * 5000),
    "numbers of 400 digits": _numbers_become(b"1" * 400),
    "NaN": _numbers_become(b"NaN"),
    "texts for numbers": _numbers_become(b'"x"'),
    "lists for numbers": _numbers_become(b"[]"),
    "null for numbers": _numbers_become(b"null"),
    "objects for texts": lambda path: path.write_bytes(re.sub(rb':( ?)"[^"]*"', rb':\1{"q":1}', path.read_bytes())),
    "a key twice": lambda path: path.write_bytes(path.read_bytes().replace(b"{", b'{"kind":1,"kind":2,', 1)),
    "a directory": _directory,
    "missing": Path.unlink,
    "a link to itself": _link_to_itself,
}
# In a study; TRIAL is the folder of its first trial.
FILES = (
    "study.json",
    "plan.jsonl",
    "timing.jsonl",
    "leases/1.json",
    "drain",
    "helpers/h-1/leases/1.json",
    "wandb/ids.json",
    "TRIAL/trial.json",
    "TRIAL/record.json",
    "TRIAL/events.1.jsonl",
    "TRIAL/log.txt",
    "TRIAL/claim.1.json",
    "TRIAL/limit",
)
