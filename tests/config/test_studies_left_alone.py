"""A study of another experiment, code or data, and a folder that is locked, are left as they are."""

import json
from pathlib import Path

import pytest

SMALL = ["cluster=inline", "tracking=disabled", "seeds=[0]", "question.total_batch_sizes=[512]"]


@pytest.fixture
def finished(harness):
    """A finished study in the current folder."""
    assert harness("+experiment=tbs_sweep", *SMALL, "workload.budget={epochs: 1}", "lr_scaling=linear").code == 0
    return Path("outputs/tbs_sweep/default")


@pytest.mark.long
def test_a_study_of_another_experiment_or_code_or_data_is_left_alone(harness, finished):
    again = ["+experiment=tbs_sweep", *SMALL, "lr_scaling=linear"]
    description = json.loads((finished / "study.json").read_text())
    others = {
        "experiment": "belongs to experiment 'other', not 'tbs_sweep': choose another study name",
        "code_fingerprint": "was made by other code (other, now ",
        "data_fingerprint": "was made by other data (other, now ",
    }
    for key, words in others.items():
        (finished / "study.json").write_text(json.dumps({**description, key: "other"}))
        before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
        said = harness(*again)
        assert said.code == 2
        assert said.err.startswith("error: study default ")
        assert said.err.count("\n") == 1
        assert words in said.err
        assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_a_study_may_have_any_letters_in_its_name(harness):
    arguments = ["+experiment=tbs_sweep", *SMALL, "dry_run=true", "lr_scaling=linear"]
    for name in ("опыт", "été-2026", "a b", "2026"):
        said = harness(*arguments, f"study={name}", "output_dir=~/études")
        assert (said.code, said.err) == (0, "")
