"""What made a study's numbers: code, versions, devices; and the fingerprint that a resumed study must share."""

import hashlib
import importlib.util
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent.parent
ROOMS_THAT_MAKE_NUMBERS = ("plan", "models", "datasets", "optimizers", "train")


def code_fingerprint(specs: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 over the source that computes records: the rooms above, and the files of the classes named in `specs`."""
    files = [path for room in ROOMS_THAT_MAKE_NUMBERS for path in sorted((PACKAGE / room).rglob("*.py"))]
    digest = hashlib.sha256()
    for path in files:
        digest.update(str(path.relative_to(PACKAGE)).encode() + path.read_bytes())
    for path in sorted({path for spec in specs for path in _own_sources(spec)}):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _own_sources(spec: Any) -> Iterable[Path]:
    """Source files of a user's own targets; installed packages are covered by their versions."""
    if isinstance(spec, Mapping):
        target = spec.get("_target_")
        # `experiments.` means the project's own folder wherever one runs: never a folder of that name found from here.
        if isinstance(target, str) and not target.startswith(("harness.", "torch.", "experiments.")):
            path = _module_file(target.rpartition(".")[0])
            if path and "site-packages" not in path.parts:
                yield path
        for value in spec.values():
            yield from _own_sources(value)


def _module_file(name: str) -> Path | None:
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return Path(found.origin) if found and found.origin and Path(found.origin).is_file() else None


def git_state(folder: Path = PACKAGE) -> dict[str, Any]:
    """Commit and dirty flag of the checkout the code runs from; empty for an installed package."""
    try:
        if Path(_git(folder, "rev-parse", "--show-toplevel"), "harness") != PACKAGE:
            return {}
        return {"commit": _git(folder, "rev-parse", "HEAD"), "dirty": bool(_git(folder, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return {}


def _git(folder: Path, *arguments: str) -> str:
    # Without optional locks: a sweep that starts must not make a commit fail that somebody makes at the same moment.
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()


def versions() -> dict[str, str]:
    """Python and the packages that shape a run."""
    found = {"python": platform.python_version()}
    for name in ("harness", "torch", "ray", "hydra-core", "wandb", "numpy", "scipy", "pandas", "scikit-learn"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def cpu_model() -> str:
    """The processor's own name, e.g. for the hardware line of a report."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def usable_cpus() -> int:
    """CPUs this process may use (its affinity, not the machine's count)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
