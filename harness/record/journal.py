"""A trial's folder: attempts that fence off earlier ones, an append-only journal, a record written last.

Attempt n is owned by the process that created `events.n.jsonl`. A writer that sees `events.n+1.jsonl` has lost the
trial and stops before its next write; a reader drops rows of attempt n beyond the step where attempt n+1 resumed, and
takes a record only from the newest attempt. Journal and record are two accounts of the trial: where a line is damaged
or the accounts differ (record.accounts), the trial is damaged, counts as never run, and runs again (P28).
"""

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.plan.outcome import Outcome
from harness.plan.settings import Settings
from harness.plan.stored import SCHEMA, NewerFormatError, check_schema
from harness.record.accounts import difference, is_count, is_evaluation, shown
from harness.record.files import checked_line, exists, read_json, read_lines, read_rows, write_json

FSYNC_EVERY_S = 1.0
FILES = ("trial.json", "record.json", "log.txt")  # of a trial's folder, next to its journal


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

    def start(self, resumed_from_step: int, hardware: str = "") -> None:
        """Write the opening row: every row that follows is beyond `resumed_from_step`, and its seconds are those of
        `hardware` (P34)."""
        row = {"kind": "start", "schema": SCHEMA, "attempt": self.number, "resumed_from_step": resumed_from_step}
        row |= {"hardware": hardware} if hardware else {}
        self.write({**row, "host": socket.gethostname(), "pid": os.getpid(), "at": time.time()})

    def write(self, row: Mapping[str, Any], durable: bool = False) -> None:
        """Append one row; synced to disk at once if `durable`, else with the first row FSYNC_EVERY_S after the last."""
        self.check()
        self._file.write(checked_line(row))
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

    evaluations: list[dict[str, Any]]  # in order of step, attempts resolved; empty if damaged
    outcome: Outcome | None  # None while unfinished, or if damaged
    record: dict[str, Any]  # record.json of the newest attempt, or {}
    attempts: int
    damage: str | None = None  # which of its files is damaged, and how
    hardware: tuple[str, ...] = ()  # that its seconds were measured on; empty where an older version did not say

    @property
    def is_finished(self) -> bool:
        """Whether the trial's result is data; a failed trial runs again."""
        return self.outcome is not None and self.outcome.is_data


def damaged(what: str) -> str:
    """A line on a damaged file or trial; `what` names it and how it is damaged."""
    return f"damaged, excluded from every number until the same command is run again: {what}"


def attempt_numbers(folder: Path) -> list[int]:
    """Numbers of the attempts in a trial's folder, ascending."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
    parts = (name.split(".") for name in names)
    return sorted(int(p[1]) for p in parts if len(p) == 3 and p[::2] == ["events", "jsonl"] and is_file_number(p[1]))


def is_file_number(text: str) -> bool:
    """Whether a part of a file's name is a number that we may have written."""
    return text.isascii() and text.isdigit() and len(text) < 19


def newest_attempt(folder: Path) -> int:
    return max(attempt_numbers(folder), default=0)


def newest_rows(folder: Path) -> list[dict[str, Any]]:
    """What the newest attempt has written after its opening row, as its trainer yielded it."""
    rows = read_lines(folder / f"events.{newest_attempt(folder)}.jsonl")
    return [row for row in rows if row.get("kind") != "start"]


def begin_again(folder: Path) -> None:
    """Make way for the next attempt at a damaged trial: no checkpoint to resume from, and nothing where a file or
    folder of its own belongs. What is in the way keeps its content under another name."""
    for path, belongs in ((folder, True), (folder / "checkpoint", True), *((folder / name, False) for name in FILES)):
        if exists(path) and (path.is_symlink() or path.is_dir() != belongs):
            path.rename(path.with_name(f"{path.name}.damaged.{time.time_ns()}"))
    for checkpoint in folder.glob("checkpoint/*"):
        if not checkpoint.is_dir():
            checkpoint.unlink()


def read_trial(folder: Path, settings: Settings | None = None) -> TrialRecord:
    """Resolve a trial's attempts into one sequence of evaluations and, if it ended, its record.

    `settings`, those of the trial, let its outcome be compared with its evaluations. Raises NewerFormatError for what a
    newer version wrote in another form. Unknown fields are accepted: an additional measurement changes none of the
    others.
    """
    try:
        return _read_trial(folder, settings)
    except NewerFormatError as error:
        raise error.of(f"trial {folder.parent.name}/{folder.name}") from error


def _read_trial(folder: Path, settings: Settings | None) -> TrialRecord:
    # Read first: once it exists all rows do, while a trial that ends between the two reads would lack its last rows.
    has_record = exists(folder / "record.json")
    record: Any = read_json(folder / "record.json") if has_record else {}
    journal = Journal(attempt_numbers(folder))
    for number in journal.attempts:
        journal.add(f"events.{number}.jsonl", read_rows(folder / f"events.{number}.jsonl"))
    newest = max(journal.attempts, default=0)
    if has_record and (malformed := _malformed(record, newest)):
        return journal.damaged(malformed)
    if journal.faults:
        return journal.damaged(journal.faults[0][1])
    rows = [journal.evaluations[step] for step in sorted(journal.evaluations)]
    if not has_record or record["attempt"] != newest:
        return TrialRecord(rows, None, {}, len(journal.attempts), hardware=tuple(journal.hardware))
    try:
        check_schema(record, "record.json")
        if record["outcome"] not in list(Outcome):
            raise NewerFormatError(f"its outcome is {record['outcome']!r}, which this version does not know")
    except NewerFormatError:
        if journal.end is not None and journal.end.get("outcome") in list(Outcome):
            return journal.damaged("record.json has another schema or outcome than the journal")
        raise
    outcome = Outcome(record["outcome"])
    if outcome.is_data and (differs := difference(record, journal.end, rows, settings)):
        return journal.damaged(differs)
    return TrialRecord(rows, outcome, record, len(journal.attempts), hardware=tuple(journal.hardware))


def _malformed(record: Any, newest: int) -> str | None:
    """What a record.json lacks of the form that every version writes; `newest`: the journal's newest attempt."""
    if not isinstance(record, dict):
        return "record.json is not a JSON object"
    number: Any = record.get("attempt")
    if not (is_count(number) and 0 < number <= newest):
        return f"record.json is of attempt {shown(number)}, and the newest journal is of attempt {newest}"
    if not isinstance(record.get("outcome"), str) or not is_count(record.get("schema", 1)):
        return "record.json has no outcome or no schema"
    return None


class Journal:
    """A trial's attempts resolved: the rows that count, and the damaged lines among them."""

    def __init__(self, attempts: list[int]) -> None:
        self.attempts = attempts
        self.evaluations: dict[int, dict[str, Any]] = {}  # by step
        self.end: dict[str, Any] | None = None  # the last row of a trial that ended
        self.hardware: list[str] = []  # of the attempts whose rows count
        self.faults: list[tuple[int, str]] = []  # the step before each damaged line, and what is damaged

    def add(self, name: str, rows: list[dict[str, Any] | None]) -> None:
        """Add the rows of the next attempt, in the file `name`: they replace those beyond where it resumed."""
        step, self.end = 0, None
        for line, row in enumerate(rows, 1):
            kind = None if row is None else row.get("kind")
            if row is None or (line == 1) != (kind == "start"):
                self.faults.append((step, f"line {line} of {name} is damaged"))
            elif kind == "start":
                resumed: Any = row.get("resumed_from_step")
                if not (is_count(resumed) and is_count(row.get("schema", 1))):
                    self.faults.append((0, f"line {line} of {name} is damaged"))
                    return
                check_schema(row, name)
                self._resume(step := resumed)
                if (hardware := row.get("hardware")) and hardware not in self.hardware:
                    self.hardware.append(str(hardware))
            elif kind == "evaluation":
                if not is_evaluation(row):
                    self.faults.append((step, f"line {line} of {name} is not an evaluation"))
                    continue
                step = row["step"]
                self.evaluations[step] = row
            elif kind == "end":
                self.end = row

    def _resume(self, step: int) -> None:
        self.evaluations = {kept: row for kept, row in self.evaluations.items() if kept <= step}
        self.faults = [(before, fault) for before, fault in self.faults if before < step]
        self.hardware = self.hardware if step else []

    def damaged(self, damage: str) -> TrialRecord:
        return TrialRecord([], None, {}, len(self.attempts), damage)
