"""Where conf/ is: next to the package in a checkout, inside it in an installed wheel."""

from pathlib import Path

from harness.plan.imports import shipped_folder


def conf_folder() -> Path:
    return shipped_folder("conf")


def slurm_folder() -> Path:
    return shipped_folder("slurm")


def available(group: str, config_dir: str | None = None) -> list[str]:
    """Names one can choose in a config group, ours and the user's own."""
    folders = [conf_folder() / group, *([Path(config_dir) / group] if config_dir else [])]
    return sorted({path.stem for folder in folders if folder.is_dir() for path in folder.glob("*.yaml")})
