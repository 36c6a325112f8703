"""A damaged file never ends a command with a traceback: one line names it, and the rest of the study counts (P28)."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from broken_files import FILES, WAYS
from made_up import WORKLOAD
from rich.console import Console
from synthetic_study import write_study

from harness.analyse.experiment import concluded, reopen
from harness.analyse.results import Records
from harness.commands import status
from harness.commands.main import main
from harness.plan.errors import UserError
from harness.plan.settings import Settings
from harness.record.examination import find_examination, write_examination
from harness.record.files import read_lines
from harness.record.journal import read_trial
from harness.record.study import StudyFolder
from harness.record.tracking.runs import study_label
from harness.report.table import print_findings
from harness.train.doctor import Check

SMALL = ["+experiment=tbs_sweep", "question.total_batch_sizes=[16,512]", "seeds=[0,1]", "lr_scaling.rules=[linear]"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A finished study of four trials, with every kind of file."""
    study = write_study(tmp_path_factory.mktemp("whole") / "tbs_sweep/s", SMALL).path
    lease = {"attempt": 1, "host": "elsewhere", "pid": 7, "started": 1.0, "heartbeat": 5.0}
    for folder in (study, study / "helpers/h-1"):
        (folder / "leases").mkdir(parents=True)
        (folder / "leases/1.json").write_text(json.dumps(lease))
    (study / "wandb").mkdir()
    (study / "wandb/ids.json").write_text('{"generation": 1}')
    (study / "drain").write_text("           0\n")
    trial = first_trial(study)
    for name, content in {"trial.json": "{}", "log.txt": "a line\n", "limit": "1e9\n"}.items():
        (trial / name).write_text(content)
    (trial / "claim.1.json").write_text('{"lease": ".", "attempt": 1}\n')
    return study


@pytest.fixture
def study(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "tbs_sweep/s"))


def first_trial(study: Path) -> Path:
    return min((study / "trials").glob("*/*"))


def place(study: Path, name: str) -> Path:
    return first_trial(study) / name.removeprefix("TRIAL/") if name.startswith("TRIAL/") else study / name


def report(study: Path) -> str:
    """How many trials count, and the text on the terminal, without files and figures."""
    folder, written = StudyFolder(study), io.StringIO()
    folder.check_planned()
    experiment, design = reopen(folder)
    findings = concluded(experiment, design, Records(folder))
    assert not findings.failed_sections
    print_findings(Console(file=written, width=200), findings)
    return f"{findings.trials} trials\n{written.getvalue()}"


def show(study: Path) -> str:
    written = io.StringIO()
    status.show(Console(file=written, width=200), StudyFolder(study))
    return written.getvalue()


def in_one_line(read: Callable[[Path], str], study: Path) -> str:
    """What a reader says: its text, or its one line of error. Anything else it raises fails the test."""
    try:
        return read(study)
    except UserError as error:
        line = str(error)
    assert "\n" not in line
    assert len(line) < 1000
    return line


COUNTED = ("TRIAL/record.json", "TRIAL/events.1.jsonl")
CASES = [(name, way) for name in FILES for way in WAYS]


def some() -> list[object]:
    """Every case; outside the long suite one way for each file."""
    return [
        pytest.param(name, way, marks=() if number % (len(WAYS) + 1) == 0 else pytest.mark.long, id=f"{name}: {way}")
        for number, (name, way) in enumerate(CASES)
    ]


@pytest.mark.parametrize(("name", "way"), some())
def test_every_reader_names_a_damaged_file_in_one_line_or_does_without_it(study, name, way):
    WAYS[way](place(study, name))
    shown, reported = in_one_line(show, study), in_one_line(report, study)
    assert study_label(StudyFolder(study)) if name != "study.json" else True
    if name == "study.json":
        return  # is read, or refused in one line
    file = name.rpartition("/")[2]
    if name in ("plan.jsonl", "timing.jsonl"):
        is_whole = reported.startswith("4 trials") and "damaged" not in reported
        assert is_whole or file in reported or "newer version" in reported
        return
    assert reported.startswith("4 trials" if name not in COUNTED else ("3 trials", "4 trials"))
    if reported.startswith("3 trials") and way != "missing":
        where = f"trials/{place(study, name).parent.relative_to(study / 'trials')}: "
        for text in (shown, reported):
            line = next(line for line in text.splitlines() if where in line)
            assert line.startswith("damaged, excluded from every number until the same command is run again: ")
            assert file in line or "journal" in line


# -- journal against record -------------------------------------------------------------------------------------------


def crossing_line(study: Path) -> tuple[Path, int]:
    """The journal of a trial that reached its target, and the number of its line with the crossing."""
    trial = next(p for p in StudyFolder(study).plan() if StudyFolder(study).record(p).outcome == "reached")
    path = StudyFolder(study).trial_path(trial) / "events.1.jsonl"
    return path, len(path.read_bytes().splitlines()) - 2  # the second of the confirming rows is the last one


@pytest.mark.parametrize("with_checksums", [True, False])
def test_one_byte_of_the_crossing_row_never_makes_a_miss(study, with_checksums):
    path, line = crossing_line(study)
    if not with_checksums:  # as older versions wrote it
        path.write_text("".join(json.dumps(row) + "\n" for row in read_lines(path)))
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    start, end = sum(map(len, lines[:line])), sum(map(len, lines[: line + 1]))
    outcomes = set()
    for at in range(start, end):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        found = read_trial(path.parent, settings_of(study, path))
        assert found.outcome in ("reached", None)
        assert (found.outcome is None) == (found.damage is not None)
        outcomes.add(found.outcome)
    assert outcomes == ({None} if with_checksums else {None, "reached"})


def settings_of(study: Path, journal: Path) -> Settings:
    planned = {StudyFolder(study).trial_path(p): p for p in StudyFolder(study).plan()}
    return planned[journal.parent].trial.arm.settings


def test_a_line_of_the_journal_that_is_gone_or_twice_is_noticed(study):
    path, line = crossing_line(study)
    record = json.loads(path.with_name("record.json").read_text())
    lines = path.read_bytes().splitlines(keepends=True)
    count = len(lines) - 1
    path.with_name("record.json").write_text(json.dumps({**record, "evaluations": count}))
    assert read_trial(path.parent).damage is None
    path.write_bytes(b"".join([*lines[:line], *lines[line + 1 :]]))
    assert read_trial(path.parent).damage == f"record.json counts {count} evaluations, and the journal has {count - 1}"


# -- another study, and a study that cannot be written ---------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_another_studys_doctor_file_never_stops_this_one(tmp_path, way):
    path = tmp_path / "doctor/other/doctor.json"
    write_examination(path.parent, WORKLOAD, {"harness": "c0de", "own": None}, "float32 on cpu", [Check("a", True, "")])
    WAYS[way](path)
    found = find_examination(tmp_path, WORKLOAD, {"harness": "c0de", "own": None})
    assert found is None or isinstance(found["summary"], str)


def test_a_study_without_a_plan_is_an_error_for_every_reader(study, capsys):
    (study / "plan.jsonl").unlink()
    for words in (["report", str(study)], ["status", str(study)], ["track", str(study), "--mode", "offline"]):
        assert main(words) == 2
        assert capsys.readouterr().err == (
            "error: study s has no plan.jsonl, the list of its trials: run the same command again to resume, or "
            "restore the file\n"
        )


@pytest.mark.long
def test_a_report_goes_where_output_says_and_else_names_what_cannot_be_written(study, tmp_path, capsys):
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    assert main(["report", str(study), "--output", str(tmp_path / "elsewhere")]) == 0
    assert (tmp_path / "elsewhere/report.html").is_file()
    assert {path: path.read_bytes() for path in study.rglob("*") if path.is_file()} == before
    (tmp_path / "file").write_text("")
    assert main(["report", str(study), "--output", str(tmp_path / "file")]) == 2
    error = capsys.readouterr().err
    assert f"no report can be written to {tmp_path / 'file'} (File exists): give a folder that can be written" in error
    assert error.count("\n") == 1


@pytest.mark.long
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_report_is_printed_whatever_the_encoding_of_standard_output(study, tmp_path, encoding):
    command = [sys.executable, "-m", "harness", "report", str(study), "--output", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(command, capture_output=True, env=environment, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"report: " in done.stdout
