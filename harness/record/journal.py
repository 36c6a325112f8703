"""A trial's folder: attempts that fence off earlier ones, an append-only journal, a record written last.

Attempt n is owned by the process that created `events.n.jsonl`. A writer that sees `events.n+1.jsonl` has lost the
trial and stops before its next write; a reader drops rows of attempt n beyond the step where attempt n+1 resumed, and
takes a record only from the newest attempt.
"""

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.plan.outcome import Outcome
from harness.plan.stored import SCHEMA, NewerFormatError, check_schema
from harness.record.files import json_line, read_json, read_lines, write_json

FSYNC_EVERY_S = 1.0


class LostTrialError(RuntimeError):
    """Another attempt has taken over this trial; the writer must stop and not touch its files."""


class Attempt:
    """The right to write one trial's files, from `claim` until a later claim."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder = folder
        self.number = number
        self._file = open(folder / f"events.{number}.jsonl", "x", encoding="utf-8")  # noqa: SIM115
        self._synced = 0.0

    @staticmethod
    def claim(folder: Path) -> "Attempt":
        """Become the newest attempt; earlier ones are fenced off from this moment."""
        folder.mkdir(parents=True, exist_ok=True)
        number = newest_attempt(folder) + 1
        while True:
            try:
                return Attempt(folder, number)
            except FileExistsError:
                number += 1

    @property
    def lost(self) -> bool:
        return (self.folder / f"events.{self.number + 1}.jsonl").exists()

    def check(self) -> None:
        """Raises LostTrialError once a newer attempt exists."""
        if self.lost:
            raise LostTrialError(f"attempt {self.number} of {self.folder} was taken over")

    def start(self, resumed_from_step: int) -> None:
        """Write the opening row: every row that follows is beyond `resumed_from_step`."""
        row = {"kind": "start", "schema": SCHEMA, "attempt": self.number, "resumed_from_step": resumed_from_step}
        self.write({**row, "host": socket.gethostname(), "pid": os.getpid(), "at": time.time()})

    def write(self, row: Mapping[str, Any], durable: bool = False) -> None:
        """Append one row; synced to disk at once if `durable`, else with the first row FSYNC_EVERY_S after the last."""
        self.check()
        self._file.write(json_line(row))
        self._file.flush()
        now = time.monotonic()
        if durable or now - self._synced >= FSYNC_EVERY_S:
            os.fsync(self._file.fileno())
            self._synced = now

    def finish(self, record: Mapping[str, Any]) -> None:
        """Write record.json, the last file of a trial."""
        self.check()
        os.fsync(self._file.fileno())
        write_json(self.folder / "record.json", {"schema": SCHEMA, "attempt": self.number, **record})

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True)
class TrialRecord:
    """The content of one trial's files."""

    evaluations: list[dict[str, Any]]  # in order of step, attempts resolved
    outcome: Outcome | None  # None while unfinished
    record: dict[str, Any]  # record.json of the newest attempt, or {}
    attempts: int

    @property
    def is_finished(self) -> bool:
        """Whether the trial's result is data; a failed trial runs again."""
        return self.outcome is not None and self.outcome.is_data


def attempt_numbers(folder: Path) -> list[int]:
    """Numbers of the attempts in a trial's folder, ascending."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
    parts = (name.split(".") for name in names)
    return sorted(int(p[1]) for p in parts if len(p) == 3 and p[::2] == ["events", "jsonl"] and p[1].isdigit())


def newest_attempt(folder: Path) -> int:
    return max(attempt_numbers(folder), default=0)


def newest_rows(folder: Path) -> list[dict[str, Any]]:
    """What the newest attempt has written after its opening row, as its trainer yielded it."""
    rows = read_lines(folder / f"events.{newest_attempt(folder)}.jsonl")
    return [row for row in rows if row.get("kind") != "start"]


def read_trial(folder: Path) -> TrialRecord:
    """Resolve a trial's attempts into one sequence of evaluations and, if it ended, its record.

    Raises NewerFormatError for what a newer version wrote in another form. Unknown fields are accepted: an additional
    measurement changes none of the others.
    """
    try:
        return _read_trial(folder)
    except NewerFormatError as error:
        raise error.of(f"trial {folder.parent.name}/{folder.name}") from error


def _read_trial(folder: Path) -> TrialRecord:
    # Read first: once it exists all rows do, while a trial that ends between the two reads would lack its last rows.
    stored = read_json(folder / "record.json")
    record = stored if isinstance(stored, dict) else {}
    check_schema(record, "record.json")
    numbers = attempt_numbers(folder)
    evaluations: dict[int, dict[str, Any]] = {}
    for number in numbers:
        for row in read_lines(folder / f"events.{number}.jsonl"):
            if row.get("kind") == "start":
                check_schema(row, f"events.{number}.jsonl")
                resumed = row["resumed_from_step"]
                evaluations = {step: kept for step, kept in evaluations.items() if step <= resumed}
            elif row.get("kind") == "evaluation":
                evaluations[row["step"]] = row
    if record and record.get("attempt") != (numbers[-1] if numbers else None):
        record = {}
    if record and record.get("outcome") not in list(Outcome):
        raise NewerFormatError(f"its outcome is {record.get('outcome')!r}, which this version does not know")
    outcome = Outcome(record["outcome"]) if record else None
    return TrialRecord([evaluations[step] for step in sorted(evaluations)], outcome, record, len(numbers))
