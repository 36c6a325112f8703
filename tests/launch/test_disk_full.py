"""A disk that fills up, a folder that is gone: a clear line; what was written stays valid and the sweep goes on."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from private_ray import may_mount
from sweeps import SMALL, Sweep, finish, inline, start

pytestmark = pytest.mark.long

# Nobody meets the target; the second trial is under way when the disk fills up.
TWO_TRIALS = [
    *SMALL,
    "seeds=[0]",
    "question.total_batch_sizes=[128,256]",
    "lr_scaling=linear",
    "workload.target.value=0.9999",
    "workload.budget={epochs: 20}",
    "cluster.checkpoint_every_s=0",
    "cluster.cpus=1",
]
DISK_BYTES = 8 * 2**20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system."""
    if not may_mount():
        pytest.skip("a small file system of its own needs the right to mount")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, left_bytes: int) -> Path:
    """A file that leaves so much room on the disk."""
    ballast = disk / "ballast"
    with open(ballast, "wb") as file:
        while True:
            found = os.statvfs(disk)
            with suppress(OSError):  # the sweep has taken some of it meanwhile
                os.posix_fallocate(file.fileno(), 0, max(1, found.f_bavail * found.f_frsize - left_bytes))
                return ballast


def filled_during_the_second_trial(disk: Path, left_bytes: int, *arguments: str) -> tuple[Sweep, Path]:
    """(what the sweep said, the ballast); the first record stays as it was."""
    process = start(disk, *TWO_TRIALS, *arguments, cwd=disk)
    deadline = time.monotonic() + 100
    while (
        not (records := list(disk.glob("*/s/trials/*/*/record.json")))
        or len(list(disk.glob("*/s/trials/*/*/checkpoint/*.pt"))) == 0
    ):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first = records[0].read_bytes()
    ballast = fill(disk, left_bytes)
    found = finish(process, disk)
    assert records[0].read_bytes() == first
    return found, ballast


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    return inline(tmp_path_factory.mktemp("calm"), *TWO_TRIALS)


def goes_on_once_there_is_room(disk: Path, ballast: Path, undisturbed: Sweep) -> None:
    ballast.unlink()
    resumed = inline(disk, *TWO_TRIALS)  # whatever launcher began it
    assert resumed.code == 0, resumed.out + resumed.err
    assert resumed.science() == undisturbed.science()


@pytest.mark.parametrize("arguments", [["cluster=inline"], []])
def test_no_room_for_a_checkpoint_fails_the_trial_with_its_cause(disk, undisturbed, arguments):
    found, ballast = filled_during_the_second_trial(disk, 48 * 2**10, *arguments)
    assert found.code == 74, found.out + found.err  # the report does not fit either
    assert "No space left on device" in found.out
    failed = [record for record in found.records().values() if record["outcome"] == "failed"]
    assert len(failed) == 1
    assert "OSError: [Errno 28] No space left on device" in failed[0]["error"]
    goes_on_once_there_is_room(disk, ballast, undisturbed)


@pytest.mark.parametrize("arguments", [["cluster=inline"], []])
def test_no_room_for_the_journal_ends_the_sweep_with_one_line(disk, undisturbed, arguments):
    found, ballast = filled_during_the_second_trial(disk, 0, *arguments)
    assert found.code == 74, found.out + found.err
    errors = [line for line in found.err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "No space left on device; what is written stays valid" in errors[0]
    goes_on_once_there_is_room(disk, ballast, undisturbed)


def checkpointing(output: Path, attempt: int, *arguments: str) -> "subprocess.Popen[str]":
    """The sweep, once an attempt of a trial is under way."""
    process = start(output, *TWO_TRIALS, *arguments)
    journals = f"*/s/trials/*/*/events.{attempt}.jsonl"
    deadline = time.monotonic() + 100
    while not any('"checkpoint"' in path.read_text() for path in output.glob(journals)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def test_a_folder_that_is_gone_for_a_while_costs_a_retry_and_one_that_stays_away_ends_the_sweep(undisturbed, tmp_path):
    study, away = tmp_path / "tbs_sweep" / "s", tmp_path / "away"
    process = checkpointing(tmp_path, 1, "cluster.max_failures=0")
    study.rename(away)
    ended = finish(process, tmp_path)
    assert ended.code == 74, ended.out + ended.err
    assert "s: the study no longer exists; what is written stays valid" in ended.err
    assert not study.exists()  # nothing is begun anew where it was
    away.rename(study)
    process = checkpointing(tmp_path, 2)
    study.rename(away)
    time.sleep(4.0)  # less than a retried trial waits for its study
    away.rename(study)
    found = finish(process, tmp_path)
    assert found.code == 0, found.out + found.err
    assert "retrying" in found.out
    assert found.science() == undisturbed.science()
