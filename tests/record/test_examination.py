"""What the doctor found travels with the workload: into the studies made after it, and into their reports."""

from dataclasses import replace
from pathlib import Path

import pytest

from harness.config.build import build_workload
from harness.config.compose import compose_config
from harness.plan.duration import Duration
from harness.record.examination import find_examination, write_examination
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
    assert found["summary"].endswith("with other code than this study's")


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
