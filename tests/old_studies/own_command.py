"""The command of a study on disk."""

import json
from pathlib import Path


def own_command(study: Path) -> list[str]:
    """The words that the study was started with, for the folder where it is now."""
    overrides = json.loads((study / "study.json").read_text())["overrides"]
    return [*overrides, f"output_dir={study.parents[1]}"]
