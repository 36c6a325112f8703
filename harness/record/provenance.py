"""What made a study's numbers besides its code: commit, versions, devices."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from harness import __version__

PACKAGE = Path(__file__).resolve().parent.parent


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
    """Python and the packages that shape a run; `harness` is this one, whatever its distribution is called."""
    installed = {"python": platform.python_version(), "harness": __version__}
    for name in ("torch", "ray", "hydra-core", "wandb", "numpy", "scipy", "pandas", "scikit-learn"):
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


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
