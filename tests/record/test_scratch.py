"""What a killed process left in the temporary folder is removed by whoever makes the next such folder."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from harness.record.scratch import OWNER, make_scratch, scratch_folder


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_folder_is_private_and_its_block_removes_it():
    with scratch_folder("harness-wandb-") as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        assert folder.name.startswith(f"harness-wandb-{os.getpid()}-")
    assert not folder.exists()


def test_the_folder_of_a_killed_process_is_removed_with_what_is_in_it(temporary):
    left = make_scratch("harness-wandb-", dead_pid())
    (left / "data" / "deep").mkdir(parents=True)
    (left / "data" / "key").write_text("x")
    make_scratch("harness-wandb-")
    assert not left.exists()


def test_folders_of_live_processes_of_other_machines_and_of_other_prefixes_stay(temporary):
    live, ray = make_scratch("harness-wandb-"), make_scratch("harness-", dead_pid())
    elsewhere = make_scratch("harness-wandb-", dead_pid())
    (elsewhere / OWNER).write_text(f"not-{socket.gethostname()}")
    make_scratch("harness-wandb-")
    assert all(folder.exists() for folder in (live, ray, elsewhere))
    make_scratch("harness-")
    assert not ray.exists()
    assert live.exists()


def test_no_link_is_followed(temporary, tmp_path):
    (temporary / "mine").mkdir()
    (temporary / "mine" / OWNER).write_text(socket.gethostname())
    planted = temporary / f"harness-wandb-{dead_pid()}-x"
    planted.symlink_to(temporary / "mine")
    make_scratch("harness-wandb-")
    assert (temporary / "mine" / OWNER).exists()
