"""Prepared data is built by one process, appears whole or not at all, and leftovers are never reused."""

import subprocess
import sys
from pathlib import Path

import pytest

from harness.datasets.prepare import is_prepared, prepare_once
from harness.datasets.progress import Progress, listening
from harness.plan.errors import UserError

BUILDER = """
import os, sys, time
from pathlib import Path
from harness.datasets.prepare import prepare_once

def build(folder):
    with open(sys.argv[2], "a") as log:
        log.write(f"{os.getpid()}\\n")
    (folder / "first").write_text("1")
    if sys.argv[3] == "die":
        os._exit(9)
    time.sleep(0.3)
    (folder / "second").write_text("2")

done = prepare_once(Path(sys.argv[1]), "data", build)
assert sorted(path.name for path in done.iterdir()) == ["first", "second"]
"""


def start(folder: Path, log: Path, how: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILDER, str(folder), str(log), how]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def write(folder: Path) -> None:
    (folder / "file").write_text("whole")


def test_one_of_many_processes_builds_and_all_see_the_whole_result(tmp_path):
    processes = [start(tmp_path / "cache", tmp_path / "log", "build") for _ in range(4)]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert len((tmp_path / "log").read_text().split()) == 1


def test_what_a_killed_process_left_is_not_reused(tmp_path):
    killed = start(tmp_path, tmp_path / "log", "die")
    killed.communicate(timeout=60)
    assert killed.returncode == 9
    assert not (tmp_path / "data").exists()
    after = start(tmp_path, tmp_path / "log", "build")
    _, errors = after.communicate(timeout=60)
    assert after.returncode == 0, errors
    assert not list(tmp_path.glob(".data.partial"))


def test_a_failed_build_leaves_nothing_and_the_next_one_starts_afresh(tmp_path):
    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise RuntimeError("no more disk")

    with pytest.raises(RuntimeError, match="no more disk"):
        prepare_once(tmp_path, "data", fail)
    assert [path.name for path in tmp_path.iterdir()] == [".data.lock"]
    assert [path.name for path in prepare_once(tmp_path, "data", write).iterdir()] == ["file"]


def test_what_is_there_is_not_built_again(tmp_path):
    prepare_once(tmp_path, "data", write)
    prepare_once(tmp_path, "data", lambda folder: pytest.fail("built twice"))


def test_a_cache_folder_that_cannot_be_made_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write prepared data to .*set dataset\.root"):
        prepare_once(tmp_path / "file" / "cache", "data", write)


def test_an_interrupted_build_of_named_parts_finds_what_it_had_finished(tmp_path):
    def interrupted(folder: Path) -> None:
        (folder / "first").write_text("1")
        raise KeyboardInterrupt

    def finish(folder: Path) -> None:
        assert (folder / "first").read_text() == "1"
        (folder / "second").write_text("2")

    with pytest.raises(KeyboardInterrupt):
        prepare_once(tmp_path, "data", interrupted, parts="pieces")
    assert not is_prepared(tmp_path, "data")
    done = prepare_once(tmp_path, "other data", finish, parts="pieces")  # what is made of the parts may have changed
    assert sorted(path.name for path in done.iterdir()) == ["first", "second"]
    assert not list(tmp_path.glob(".*.partial"))


def test_progress_is_plain_lines_in_a_log_and_reaches_whoever_listens(capfd):
    heard: list[str] = []
    with listening(heard.append):
        progress = Progress("data", 1000, "files read")
        for _ in range(10):
            progress.advance(100)
    assert heard == ["data: 1,000 of 1,000 files read in 0 s"]  # one line in 10 s, and the last one
    assert capfd.readouterr().err.splitlines() == heard


def test_progress_rewrites_one_line_of_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("harness.datasets.progress.REWRITE_EVERY_S", 0.0)
    progress = Progress("data", 2, "files read")
    progress.advance(1)
    progress.advance(1)
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert shown.count("\r\x1b[Kdata:") == 2
