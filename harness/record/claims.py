"""Which of the drivers that share a study runs which trial (cluster.share_study).

A trial belongs to the driver that created the newest `claim.n.json` in its folder, for as long as that driver holds its
lease; after that any driver may create number n + 1. No driver writes another's file, so no late write undoes a claim.
"""

import time
from pathlib import Path
from typing import Any

from harness.record.accounts import is_count
from harness.record.files import json_line, read_json
from harness.record.journal import is_file_number
from harness.record.lease import STALE_S, Lease
from harness.record.study import StudyFolder


class Claims:
    """The claims of one driver, which holds `lease` inside the study."""

    def __init__(self, study: Path, lease: Lease) -> None:
        self.study = study
        self._me = {"lease": str(lease.folder.relative_to(study)), "attempt": lease.number}

    def take(self, key: str) -> bool:
        """Claim a trial; returns whether it is now this driver's, False while another live driver has it."""
        folder = self.study / "trials" / key
        folder.mkdir(parents=True, exist_ok=True)
        number = _newest(folder)
        if number:
            path = folder / f"claim.{number}.json"
            owner = claimed_by(folder)
            if owner == self._me:
                return True
            if self._is_alive(path, owner):
                return False
        try:
            with open(folder / f"claim.{number + 1}.json", "x", encoding="utf-8") as file:
                file.write(json_line(self._me))
        except FileExistsError:
            return False
        return True

    def _is_alive(self, path: Path, owner: dict[str, Any] | None) -> bool:
        if owner is None:  # its driver is still writing it, or died before it could
            return time.time() - path.lstat().st_mtime < STALE_S
        folder = StudyFolder(self.study / owner["lease"])
        lease = folder.lease_held()
        return lease is not None and lease["attempt"] == owner["attempt"] and folder.is_being_run


def claimed_by(folder: Path) -> dict[str, Any] | None:
    """The newest claim on the trial in `folder`: the lease's folder inside the study, and its attempt; None where there
    is none, or it is damaged."""
    number = _newest(folder)
    claim = read_json(folder / f"claim.{number}.json") if number else None
    is_claim = isinstance(claim, dict) and isinstance(claim.get("lease"), str) and is_count(claim.get("attempt"))
    return claim if is_claim else None


def _newest(folder: Path) -> int:
    numbers = (path.name.split(".")[1] for path in folder.glob("claim.*.json"))
    return max((int(number) for number in numbers if is_file_number(number)), default=0)
