"""The kept numbers of the golden trials, in float64.

python tests/golden/golden_values.py     # write them anew: only where numbers were meant to change
"""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from golden_trials import run_golden_trials

VALUES = Path(__file__).with_name("values.json")
KEPT = ("step", "lr", "train_loss", "validation", "noise_scale", "test", "outcome")  # of a row


def kept_values() -> dict[str, Any]:
    """Name of a golden trial -> its trial_id and the numbers kept of it."""
    return json.loads(VALUES.read_text())


def golden_digest() -> str:
    """Identifies the kept numbers: an entry of compatible.json holds for the ones that it was compared under."""
    return hashlib.sha256(VALUES.read_bytes()).hexdigest()[:16]


def numbers_kept(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What is kept of `run_golden_trials`."""
    return {
        name: {
            "trial_id": run["trial_id"],
            "rows": [{key: row[key] for key in KEPT if key in row} for row in run["rows"]],
        }
        for name, run in runs.items()
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        made = numbers_kept(run_golden_trials(Path(scratch, "runs"), "float64"))
    VALUES.write_text(json.dumps(made, indent=1) + "\n")
    print(f"wrote {VALUES}: now empty the entries of harness/record/compatible.json")
