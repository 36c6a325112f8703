"""Whether an older commit computes the same bits as this checkout; only then may compatible.json list its fingerprint.

    python tests/golden/compare_commits.py COMMIT          # compare the golden trials, in float32 and float64
    python tests/golden/compare_commits.py COMMIT --list   # and, if they agree, list the commit's fingerprint

Studies made by a listed fingerprint are resumed and trusted without allow_mixed_code. The comparison takes a minute.
"""

import argparse
import io
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from golden_values import golden_digest

ROOT = Path(__file__).resolve().parents[2]
COMPATIBLE = ROOT / "harness" / "record" / "compatible.json"


def is_available(commit: str) -> bool:
    """Whether this checkout's history holds the commit (a shallow clone's does not)."""
    found = subprocess.run(["git", "-C", str(ROOT), "cat-file", "-e", f"{commit}^{{commit}}"], capture_output=True)
    return found.returncode == 0


def compare(commit: str) -> tuple[str, list[str]]:
    """The fingerprint of the commit's code, and one line for every golden number in which this checkout differs."""
    with tempfile.TemporaryDirectory() as scratch:
        old = Path(scratch, "old")
        archive = subprocess.run(
            ["git", "-C", str(ROOT), "archive", commit, "harness"], capture_output=True, check=True
        )
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
            files.extractall(old, filter="data")
        theirs, ours = run_under(old, Path(scratch, "theirs")), run_under(ROOT, Path(scratch, "ours"))
    return theirs["fingerprint"], list(differences(theirs["runs"], ours["runs"]))


def run_under(tree: Path, folder: Path) -> dict[str, Any]:
    """What golden_trials.py prints where Python finds the package of `tree`."""
    command = [sys.executable, str(Path(__file__).with_name("golden_trials.py")), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the golden trials fail with the package of {tree}:\n{done.stderr}")
    return json.loads(done.stdout)


def differences(old: Any, new: Any, place: str = "") -> Iterator[str]:
    """Every value of `old` that `new` has not, to the bit; what only `new` has is a measurement more."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key, value in old.items():
            yield from differences(value, new.get(key), f"{place} {key}".strip())
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (before, now) in enumerate(zip(old, new, strict=True)):
            yield from differences(before, now, f"{place} {i}")
    elif old != new:
        yield f"{place}: {old!r}, now {new!r}"


def entry(fingerprint: str, commit: str) -> dict[str, str]:
    """What compatible.json says about a commit that agrees."""
    named = subprocess.run(["git", "-C", str(ROOT), "rev-parse", commit], capture_output=True, text=True, check=True)
    return {
        "fingerprint": fingerprint,
        "commit": named.stdout.strip(),
        "compared": "all golden trials (tests/golden) in float32 and float64, every journal value to the bit",
        "golden": golden_digest(),
        "on": f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, torch {metadata.version('torch')}",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit")
    parser.add_argument("--list", action="store_true", help="list its fingerprint in harness/record/compatible.json")
    given = parser.parse_args()
    fingerprint, found = compare(given.commit)
    if found:
        print(f"{len(found)} values differ from {given.commit} ({fingerprint}); the first ones:", *found[:10], sep="\n")
        return 1
    print(f"{given.commit} ({fingerprint}) gives the same bits")
    if given.list:
        content = json.loads(COMPATIBLE.read_text())
        others = [known for known in content["entries"] if known["fingerprint"] != fingerprint]
        content["entries"] = [*others, entry(fingerprint, given.commit)]
        COMPATIBLE.write_text(json.dumps(content, indent=1) + "\n")
        print(f"listed in {COMPATIBLE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
