"""The W&B report is optional, and building one leaves no trace in the process that does."""

import json
import random
import sys
from dataclasses import replace

import pytest
from tracked_studies import Deaf, attempt, open_study
from wandb_document import document_text

from harness.analyse.experiment import reopen
from harness.analyse.results import Records
from harness.plan.errors import UserError
from harness.record.tracking.public_files import write_public_files
from harness.record.tracking.publish import write_spec
from harness.report.wandb_report import report_document
from harness.report.write import write_files


@pytest.fixture(scope="module")
def documented(tmp_path_factory):
    study, planned = open_study(tmp_path_factory.mktemp("publish") / "s")
    for trial in planned:
        attempt(study, trial, Deaf())
    study.close()
    experiment, design = reopen(study)
    findings = experiment.conclude(Records(study))
    return study, findings, report_document(findings, design.workload.target.metric)


def test_a_missing_package_is_named_with_what_to_install(documented, monkeypatch):
    study, _, document = documented
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(UserError, match=r"pip install wandb-workspaces"):
        write_spec(study.path, document, "g")


def test_building_a_report_leaves_the_random_numbers_alone(documented):
    pytest.importorskip("wandb_workspaces")
    study, _, document = documented
    before = random.getstate()
    write_spec(study.path, document, "g")
    assert random.getstate() == before


def test_the_files_of_the_artifact_name_no_place_on_this_machine(documented, tmp_path):
    _, findings, _ = documented
    settings = {**findings.settings[0], "dataset": {"_target_": "x", "root": "/CANARY"}}
    settings["model"] = {"_target_": "m", "weights": "/home/someone/CANARY/w.pt", "name": "a/b", "other": "~/CANARY"}
    failed = "A section failed: no such file: '/home/someone/CANARY/x.npy'"
    told = replace(findings, settings=[settings, *findings.settings[1:]], failed_sections=[failed])
    private, public = tmp_path / "private", tmp_path / "public"
    public.mkdir()
    written = write_files(private, told)
    copies = write_public_files(private, public)
    assert {path.name for path in copies} == {"results.csv", "results.json", "report.html"}
    assert "CANARY" in (private / "results.json").read_text()
    assert "CANARY" in (private / "report.html").read_text()
    assert not [path for path in copies if "CANARY" in path.read_text()]
    model = json.loads((public / "results.json").read_text())["settings"][0]["model"]
    pytest.importorskip("wandb_workspaces")
    spec = write_spec(public, report_document(told, "accuracy"), "g").read_text()
    assert "A section failed: no such file: '(path)'" in spec
    assert "CANARY" not in spec
    assert model == {"_target_": "m", "weights": "(path)", "name": "a/b", "other": "(path)"}
    same = write_files(private, replace(written, settings=findings.settings, failed_sections=[]))
    assert not same.failed_sections
    assert all(path.read_bytes() == (private / path.name).read_bytes() for path in write_public_files(private, public))


def test_the_document_says_what_the_findings_say(documented):
    _, findings, document = documented
    text = document_text(document)
    assert all(line in text for line in findings.verdict)
    assert all(caveat.replace("<", "&lt;") in text for caveat in findings.caveats)
    rows = [dict(zip(document["table"]["columns"], row, strict=True)) for row in document["table"]["rows"]]
    measured = [row for row in rows if row["kind"] == "measured"]
    assert [row["epochs"] for row in measured] == pytest.approx([arm.epochs for arm in findings.arms])
    perfect = {row["total_batch_size"]: row["steps"] for row in rows if row["kind"] == "perfect scaling"}
    assert perfect[16] / perfect[128] == pytest.approx(8)
    json.dumps(document, allow_nan=False)
