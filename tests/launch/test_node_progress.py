"""A node that prepares data for hours is waited for as long as it gets anywhere, and no longer."""

import time

import pytest

from harness.datasets.progress import announce
from harness.launch import node_progress
from harness.launch.node_progress import read_progress, showing_progress


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(node_progress, "BEAT_S", 0.05)


def beats_after(path, seconds: float) -> int:
    time.sleep(seconds)
    return int(read_progress(path)[0] or 0)


def test_a_line_of_progress_reaches_the_driver(tmp_path):
    path = tmp_path / "node.progress"
    assert read_progress(path) == ("", "")
    with showing_progress(path):
        announce("train/: 7 of 9 images decoded")
        assert beats_after(path, 0.3) == 1
        assert read_progress(path)[1] == "train/: 7 of 9 images decoded"
        announce("train/: 8 of 9 images decoded")
        assert beats_after(path, 0.3) == 2


def test_silent_work_counts_as_progress_and_an_idle_process_does_not(tmp_path, monkeypatch):
    path = tmp_path / "node.progress"
    monkeypatch.setattr(node_progress, "ACTIVE_CPU_S", 0.1)
    with showing_progress(path):
        assert beats_after(path, 0.3) == 0
        end = time.process_time() + 0.35
        while time.process_time() < end:
            sum(range(1000))
        assert beats_after(path, 0.2) >= 1
        (tmp_path / "download").write_bytes(b"0" * (2 << 20))
        before = int(read_progress(path)[0])
        assert beats_after(path, 0.3) >= before
