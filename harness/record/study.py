"""A study: one run of an experiment, as a folder; owned by one driver at a time through a lease (section 3)."""

import json
import os
import socket
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import Any

from harness.plan.counted import count
from harness.plan.errors import UserError, one_line
from harness.plan.stored import SCHEMA, NewerFormatError, check_schema, remedy
from harness.plan.trial import Arm, PlannedTrial, plan_key
from harness.record.accounts import is_finite, shown
from harness.record.code_fingerprint import fingerprint_text, gives_the_same_numbers
from harness.record.files import (
    append_checked,
    append_lines,
    exists,
    has_torn_end,
    json_line,
    open_new,
    plain,
    read_json,
    read_rows,
    refuse_links,
    write_json,
    write_whole,
)
from harness.record.journal import TrialRecord, read_trial
from harness.record.lease import STALE_S, Lease, is_alive, newest_lease, read_lease

# Fields of timing.jsonl that readers calculate with or group by.
TIMING_NUMBERS = {"median_s", "fastest_s", "slowest_s", "rounds_s", "steps", "loader_fraction", "other_cpus", "cpus"}
TIMING_TEXTS = {"key", "work", "topology", "conditions", "device", "driver"}


class StudyFolder:
    """Read access to a study; needs neither torch nor ray, and nobody's leave."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_checked = False  # for links

    @property
    def exists(self) -> bool:
        return (self.path / "study.json").is_file()

    def description(self) -> dict[str, Any]:
        """study.json; UserError where the folder is not a study, or one that a newer version wrote in another form."""
        if not self._is_checked:
            refuse_links(self.path)
            self._is_checked = True
        value = read_json(self.path / "study.json")
        if not isinstance(value, dict):
            raise UserError(f"{self.path} is not a study: it has no readable study.json")
        _check_schema(self.path, value)
        for key in ("git", "versions", "hardware", "doctor"):
            if not isinstance(value.get(key) or {}, dict):
                raise UserError(f"study.json of study {self.path.name} is damaged: {key} is {shown(value[key])}")
        if not isinstance(value.get("experiment"), str):
            raise UserError(f"study.json of study {self.path.name} is damaged: it has no experiment")
        return value

    @property
    def is_being_run(self) -> bool:
        """Whether a driver holds the study's lease at this moment."""
        held = self.lease_held()
        return held is not None and is_alive(held)

    def lease_held(self) -> dict[str, Any] | None:
        """The newest lease: attempt, host, pid, heartbeat and whether it was released; None before the first."""
        number = newest_lease(self.path)
        return read_lease(self.path, number) if number else None

    def helpers(self) -> list["StudyFolder"]:
        """Where drivers that share the study, without leading it, hold a lease of their own."""
        return [StudyFolder(path) for path in sorted(self.path.glob("helpers/*"))]

    def plan(self) -> list[PlannedTrial]:
        """Every planned trial, in the order it was planned; damaged lines are left out, see `damage`."""
        return [planned for _, planned in self._plan() if planned is not None]

    def _plan(self) -> list[tuple[dict[str, Any], PlannedTrial | None]]:
        """Every line of plan.jsonl; None for one that is damaged: its trial_id is not that of its settings."""
        arms: dict[str, Arm] = {}  # one object for all seeds of an arm: its settings are resolved and hashed once
        lines: list[tuple[dict[str, Any], PlannedTrial | None]] = []
        with self._reading("plan.jsonl"):
            for row in read_rows(self.path / "plan.jsonl"):
                if row is None:
                    lines.append(({}, None))
                    continue
                text = json.dumps(row["arm"])
                planned = PlannedTrial.from_json(row, arms.get(text))
                arms[text] = planned.trial.arm
                lines.append((row, planned if planned.trial.trial_id == row["trial_id"] else None))
        return lines

    def check_planned(self) -> None:
        """UserError for a folder without plan.jsonl: there is no trial to read."""
        self.description()
        if not read_rows(self.path / "plan.jsonl"):
            raise UserError(
                f"study {self.path.name} has no plan.jsonl, the list of its trials: run the same command again to "
                "resume, or restore the file"
            )

    def damage(self) -> list[str]:
        """A line on each file of the study itself that holds something damaged; trials have their own `damage`."""
        damaged = {
            "plan.jsonl": ("its trial", "their trials", [planned for _, planned in self._plan()]),
            "timing.jsonl": ("its timing", "their timings", read_rows(self.path / "timing.jsonl")),
        }
        found = {}
        for name, (one, several, rows) in damaged.items():
            lines = [str(number) for number, row in enumerate(rows, 1) if row is None]
            if len(lines) == 1:
                found[name] = f"line {lines[0]} of {name} is damaged: {one} is excluded"
            elif lines:
                found[name] = f"lines {', '.join(lines)} of {name} are damaged: {several} are excluded"
        for name in damaged:
            if exists(self.path / name) and not (self.path / name).is_file():
                found[name] = f"{name} is not a file"
            elif name not in found and has_torn_end(self.path / name) and not self.is_being_run:
                found[name] = f"{name} ends within a line"
        return [*found.values(), *self._unlisted()]

    def _unlisted(self) -> list[str]:
        """A line on trials that have a folder and are not in plan.jsonl."""
        with suppress(OSError):
            listed = {planned.trial.trial_id for planned in self.plan()}
            if extra := [name for name in os.listdir(self.path / "trials") if name not in listed]:
                return [f"plan.jsonl does not list {count(len(extra), 'trial')} of those in trials/: {extra[0]} ..."]
        return []

    def trial_path(self, planned: PlannedTrial) -> Path:
        return self.path / "trials" / planned.key

    def record(self, planned: PlannedTrial) -> TrialRecord:
        return read_trial(self.trial_path(planned), planned.trial.arm.settings)

    def timings(self) -> list[dict[str, Any]]:
        """Rows of the timing pass, without damaged ones; the newest row of a key counts."""
        rows = [row for row in read_rows(self.path / "timing.jsonl") if row is not None]
        with self._reading("timing.jsonl"):
            for row, field in product(rows, ("key", "median_s")):
                if field not in row:
                    raise KeyError(field)
            for row in rows:
                _check_timing(row)
        return rows

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Whatever one of the study's files holds that this version cannot read becomes one line."""
        try:
            yield
        except NewerFormatError as error:
            raise error.of(f"study {self.path.name}", remedy(read_json(self.path / "study.json"))) from error
        except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
            reason = f"a line has no {error}" if isinstance(error, KeyError) else one_line(error)
            raise UserError(
                f"{name} of study {self.path.name} cannot be read by this version of harness ({reason}): "
                f"{remedy(read_json(self.path / 'study.json'))}"
            ) from error


class Study(StudyFolder):
    """Write access: holds the lease from `open` to `close`; or, for a helper, from `join`, to trials alone."""

    def __init__(self, path: Path, lease: Lease, leads: bool = True) -> None:
        super().__init__(path)
        self.lease = lease
        self.leads = leads  # plans, times and reports

    @staticmethod
    def open(
        path: Path, description: Mapping[str, Any], allow_mixed_code: bool = False, take_over: bool = False
    ) -> "Study":
        """Create the study or continue it; UserError when it is another experiment's, other code's, or in use.

        `take_over` continues it although a driver on another machine seems to be alive.
        """
        refuse_links(path)
        _make_folder(path)
        stored = None
        if exists(path / "study.json"):
            stored = _stored(path)
            check_same(path, stored, description, allow_mixed_code)
        study = Study(path, Lease.take(path, take_over))
        if take_over:
            study.end_helpers_ahead()
        before = stored or {}
        session = {"at": time.time(), "attempt": study.lease.number, "overrides": description.get("overrides", [])}
        created, sessions = before.get("created_at", time.time()), before.get("sessions", [])
        sessions = sessions if isinstance(sessions, list) else []
        value = {"schema": SCHEMA, "created_at": created, **description, "sessions": [*sessions, session]}
        earlier, hardware = before.get("hardware"), description.get("hardware") or {}
        if isinstance(earlier, dict) and earlier.get("device") == hardware.get("device"):
            value["hardware"] = {**earlier, **hardware}  # what its nodes said stays
        if before.get("mixed_code") or (stored is not None and _differences(stored, description)):
            value["mixed_code"] = True  # stays with the study and becomes a caveat of its report
        write_json(path / "study.json", value)
        return study

    @staticmethod
    def join(path: Path, description: Mapping[str, Any], allow_mixed_code: bool = False) -> "Study":
        """Help the driver that has the study: UserError where that is another experiment's or other code's."""
        refuse_links(path)
        deadline = time.monotonic() + STALE_S
        while not exists(path / "study.json"):  # written just after the lease is taken
            if time.monotonic() > deadline:
                raise UserError(f"the driver of study {path.name} has not described it in {STALE_S:g} s: is it alive?")
            time.sleep(0.2)
        check_same(path, _stored(path), description, allow_mixed_code)
        own = path / "helpers" / f"{socket.gethostname()}-{os.getpid()}"
        own.mkdir(parents=True, exist_ok=True)
        return Study(path, Lease.take(own), leads=False)

    def add_hardware(self, found: Mapping[str, str]) -> None:
        """Add to study.json what the nodes of a cluster compute on, which the driver's machine does not tell."""
        self.lease.check()
        value = _stored(self.path)
        write_json(self.path / "study.json", {**value, "hardware": {**(value.get("hardware") or {}), **found}})

    def add_plan(self, planned: Iterable[PlannedTrial]) -> None:
        """Append the trials that plan.jsonl does not list yet; damaged lines are removed from it."""
        path, lines = self.path / "plan.jsonl", self._plan()
        kept = [row for row, trial in lines if trial is not None]
        with self._reading("plan.jsonl"):
            known = {plan_key(row) for row in kept}
        rows = [row for row in (trial.to_json() for trial in planned) if plan_key(row) not in known]
        self.lease.check()
        if len(kept) < len(lines):
            write_whole(path, "".join(map(json_line, kept)))
        append_lines(path, rows)

    def add_timing(self, row: Mapping[str, Any]) -> None:
        """Append a row to timing.jsonl; damaged lines are removed from it."""
        path = self.path / "timing.jsonl"
        self.lease.check()
        if None in (rows := read_rows(path)):
            path.unlink()
            for kept in filter(None, rows):
                append_checked(path, kept)
        append_checked(path, plain(row))

    def end_helpers_ahead(self) -> None:
        """Free what helpers had claimed whose last heartbeat lies in the future: by our clock they would not be stale
        for as long as theirs is ahead."""
        for helper in self.helpers():
            held = helper.lease_held()
            if held and is_alive(held) and held["heartbeat"] > time.time() + STALE_S:
                Lease.take(helper.path, take_over=True).release()

    def close(self) -> None:
        self.lease.release()


def _check_timing(row: Mapping[str, Any]) -> None:
    """Raises ValueError where a row of timing.jsonl has something else than the number or text that belongs there."""
    for field in TIMING_NUMBERS & row.keys():
        values = row[field] if field == "rounds_s" and isinstance(row[field], list) else [row[field]]
        if not all(value is None or is_finite(value) for value in values):
            raise ValueError(f"a line has {field} {shown(row[field])}")
    for field in TIMING_TEXTS & row.keys():
        if not isinstance(row[field], str):
            raise ValueError(f"a line has {field} {shown(row[field])}")
    if row["median_s"] is None or row["median_s"] <= 0:
        raise ValueError(f"a line has median_s {row['median_s']}")


def _stored(path: Path) -> dict[str, Any]:
    """study.json of a study to continue. UserError if it is damaged: nothing else says which code made its trials."""
    stored = read_json(path / "study.json")
    if not isinstance(stored, dict):
        raise UserError(
            f"{path / 'study.json'} is damaged: restore it, or choose another study name; the trials cannot be "
            "continued without it"
        )
    return stored


def unwritable(path: Path, error: OSError) -> UserError:
    """The error for a study folder that cannot be created or written."""
    return UserError(f"study folder {path} cannot be written ({error.strerror}): choose another output_dir")


def _make_folder(path: Path) -> None:
    """Create the folder and prove that it can be written; UserError in one line otherwise."""
    probe = path / f".writable.{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        open_new(probe).close()
        probe.unlink()
    except OSError as error:
        raise unwritable(path, error) from error
    if path.stat().st_mode & stat.S_IWOTH:
        raise UserError(f"study folder {path} is writable by everyone: run `chmod o-w` on it first")


def check_same(path: Path, stored: Mapping[str, Any], given: Mapping[str, Any], allow_mixed_code: bool) -> None:
    """Raises UserError unless a study with this study.json may be continued as `given` describes it."""
    _check_schema(path, stored)
    if stored.get("experiment") != given["experiment"]:
        raise UserError(
            f"study {path.name} belongs to experiment {stored.get('experiment')!r}, not {given['experiment']!r}: "
            "choose another study name"
        )
    differences = _differences(stored, given)
    if differences and not allow_mixed_code:
        key = differences[0]
        before, now = fingerprint_text(stored.get(key)), fingerprint_text(given[key])
        raise UserError(
            f"study {path.name} was made by other {key.partition('_')[0]} ({before}, now {now}): choose another "
            "study name, or pass allow_mixed_code=true to mix the records knowingly"
        )


def _differences(stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Which fingerprints of a study say that its records were made by something else than what is given now."""
    same_code = gives_the_same_numbers(stored.get("code_fingerprint"), given["code_fingerprint"])
    same_data = stored.get("data_fingerprint") == given["data_fingerprint"]
    return [*([] if same_code else ["code_fingerprint"]), *([] if same_data else ["data_fingerprint"])]


def _check_schema(path: Path, stored: Mapping[str, Any]) -> None:
    try:
        check_schema(stored, "study.json")
    except NewerFormatError as error:
        raise error.of(f"study {path.name}", remedy(stored)) from error
