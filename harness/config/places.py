"""Where conf/ and experiments/ lie: beside the package in a checkout, inside it in an installed wheel."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def conf_folder() -> Path:
    inside = PACKAGE / "_conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"


def experiments_folder() -> Path:
    inside = PACKAGE / "_experiments"
    return inside if inside.is_dir() else PACKAGE.parent / "experiments"


def available(group: str, config_dir: str | None = None) -> list[str]:
    """Names one can choose in a config group, ours and the user's own."""
    folders = [conf_folder() / group, *([Path(config_dir) / group] if config_dir else [])]
    return sorted({path.stem for folder in folders if folder.is_dir() for path in folder.glob("*.yaml")})
