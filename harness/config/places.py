"""Where conf/ and experiments/ lie: beside the package in a checkout, inside it in an installed wheel."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def conf_folder() -> Path:
    inside = PACKAGE / "_conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"


def experiments_folder() -> Path:
    inside = PACKAGE / "_experiments"
    return inside if inside.is_dir() else PACKAGE.parent / "experiments"
