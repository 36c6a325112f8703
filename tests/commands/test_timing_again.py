"""A study's timing pass through its own command: what is timed, when it is timed again, and what an old row keeps."""

from pathlib import Path

import pytest

from harness.commands.main import main
from harness.record.files import json_line as line_of
from harness.record.files import read_lines, write_whole
from harness.record.study import StudyFolder

STUDY = Path("outputs/tbs_sweep/s")
COMMAND = [
    "+experiment=tbs_sweep",
    "study=s",
    "cluster=inline",
    "tracking=disabled",
    "lr_scaling=linear",
    "seeds=[0]",
    "workload.budget={epochs: 2}",
    "cluster.timing_min_s=0.1",
]
TWO, THREE = "question.total_batch_sizes=[128,256]", "question.total_batch_sizes=[128,256,512]"


@pytest.fixture
def study(tmp_path, monkeypatch) -> StudyFolder:
    monkeypatch.chdir(tmp_path)
    assert main([*COMMAND, TWO]) == 0
    return StudyFolder(STUDY)


@pytest.mark.long
def test_thirty_updates_in_three_rounds_that_last_the_time_asked_for(study):
    rows = study.timings()
    assert [row["total_batch_size"] for row in rows] == [128, 256]
    for row in rows:
        assert row["steps"] >= 30
        assert len(row["rounds_s"]) == 3
        assert row["steps"] * row["slowest_s"] >= 0.1
        assert row["device"] in row["key"]


@pytest.mark.long
def test_a_finished_study_is_not_timed_again_and_a_longer_grid_is_timed_as_a_whole_where_it_has_old_rows(study):
    rows = study.timings()
    assert main([*COMMAND, TWO]) == 0
    assert study.timings() == rows
    old = [{"key": "/".join(row["key"].split("/")[:3]), "median_s": 0.5 * row["median_s"]} for row in rows]
    write_whole(STUDY / "timing.jsonl", "".join(map(line_of, old)))
    assert main([*COMMAND, TWO]) == 0
    assert study.timings() == old  # still found, hence nothing to do
    assert main([*COMMAND, THREE]) == 0
    assert [row["total_batch_size"] for row in study.timings()[2:]] == [128, 256, 512]
    assert main([*COMMAND, THREE]) == 0
    assert len(study.timings()) == 5


@pytest.mark.long
def test_a_time_slower_than_its_trials_is_measured_again_as_the_report_says(study):
    slow = [{**row, "median_s": 100 * row["median_s"]} for row in study.timings()]
    write_whole(STUDY / "timing.jsonl", "".join(map(line_of, slow)))
    assert main(["report", str(STUDY)]) == 0
    report = (STUDY / "report.md").read_text()
    assert report.count("excluded from headline numbers") == 2
    assert "delete timing.jsonl in the study's folder and run the same command again" in report
    (STUDY / "timing.jsonl").unlink()
    assert main([*COMMAND, TWO]) == 0
    again = list(read_lines(STUDY / "timing.jsonl"))
    assert [row["key"] for row in again] == [row["key"] for row in slow]
    assert all(now["median_s"] < before["median_s"] for now, before in zip(again, slow, strict=True))
