"""What the doctor found travels with the workload: into the studies made after it, and into their reports."""

from dataclasses import replace
from pathlib import Path

import pytest

from harness.config.build import build_workload
from harness.config.compose import compose_config
from harness.plan.duration import Duration
from harness.record.examination import find_examination, workload_fingerprint, write_examination
from harness.record.files import read_json, write_json
from harness.train.doctor import Check

WORKLOAD = build_workload(compose_config(["+experiment=tbs_sweep"]), 1024)
PASSED, FAILED = Check("order", True, "fine"), Check("clocks", False, "backwards")


def test_the_newest_examination_of_a_workload_is_found_with_its_verdict(tmp_path: Path):
    assert find_examination(tmp_path, WORKLOAD, "c0de") is None
    write_examination(tmp_path / "doctor" / "old", WORKLOAD, "c0de", "float32 on cpu", [PASSED, FAILED])
    write_examination(tmp_path / "doctor" / "new", WORKLOAD, "c0de", "bf16 on cuda", [PASSED, PASSED])
    found = find_examination(tmp_path, WORKLOAD, "c0de")
    assert found is not None
    assert found["failed"] == []
    assert found["summary"].startswith("all 2 checks passed on ")
    assert found["summary"].endswith(", bf16 on cuda")


def test_failed_checks_and_other_code_are_named(tmp_path: Path):
    write_examination(tmp_path / "doctor" / "default", WORKLOAD, "older", "float32 on cpu", [PASSED, FAILED])
    found = find_examination(tmp_path, WORKLOAD, "c0de")
    assert found is not None
    assert found["failed"] == ["clocks"]
    assert found["summary"].startswith("1 of 2 checks failed: clocks on ")
    assert found["summary"].endswith("with different code from this study's")


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"base_lr": 0.5, "budget": Duration(1, "epochs"), "name": "renamed"}, True),
        ({"dataset": {**WORKLOAD.dataset, "root": "/elsewhere"}}, True),
        ({"dataset": {**WORKLOAD.dataset, "train": 512}}, False),
        ({"model": {"_target_": "mine.Model"}}, False),
        ({"batch_norm": replace(WORKLOAD.batch_norm, span_examples=8)}, False),
    ],
)
def test_another_workload_was_not_examined(tmp_path: Path, change: dict, same: bool):
    write_examination(tmp_path / "doctor" / "default", WORKLOAD, "c0de", "float32 on cpu", [PASSED])
    assert (find_examination(tmp_path, replace(WORKLOAD, **change), "c0de") is not None) == same


def test_an_examination_by_code_that_gives_the_same_numbers_counts_without_a_note(tmp_path: Path):
    write_examination(tmp_path / "doctor" / "default", WORKLOAD, "5b0063882d0e6c5d", "float32 on cpu", [PASSED])
    found = find_examination(tmp_path, WORKLOAD, {"harness": "aaaa", "own": None})
    assert found is not None
    assert found["summary"].endswith("float32 on cpu")


@pytest.mark.parametrize("change", [{"schema": 2}, {"at": None}, {"checks": "all"}, {"checks": [{"title": "order"}]}])
def test_an_examination_in_another_form_is_not_read_and_stops_nothing(tmp_path: Path, change: dict):
    folder = tmp_path / "doctor" / "default"
    write_examination(folder, WORKLOAD, "c0de", "float32 on cpu", [PASSED])
    changed = {
        key: value for key, value in {**read_json(folder / "doctor.json"), **change}.items() if value is not None
    }
    write_json(folder / "doctor.json", changed)
    found = find_examination(tmp_path, WORKLOAD, "c0de")
    assert found == {
        "failed": [],
        "summary": "doctor/default/doctor.json is damaged or of a newer version of harness, and was not read",
    }


def test_the_archives_examination_is_found_whatever_fields_have_been_added_since(tmp_path: Path):
    """The fingerprint that version 0.1.0 stored for digits_bn_cnn; see tests/old_studies."""
    assert workload_fingerprint(WORKLOAD) == "0486321e874da24b"
