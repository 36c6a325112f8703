"""A study keeps its configuration, so a secret in one is refused before anything is written."""

import pytest

SWEEP = ["+experiment=tbs_sweep", "cluster=inline"]


def test_the_value_of_a_secret_variable_is_refused_without_being_told(harness, monkeypatch):
    monkeypatch.setenv("SOMEONES_TOKEN", "CANARY-12345678")
    for argument in ("+dataset.url=${oc.env:SOMEONES_TOKEN}", "+dataset.url=https://me:CANARY-12345678@host/x"):
        refusal = harness(
            *SWEEP, argument.replace("=https", "='https") + ("'" if "https" in argument else "")
        ).refusal()
        assert "dataset.url contains the value of the environment variable SOMEONES_TOKEN" in refusal
        assert "CANARY" not in refusal


@pytest.mark.parametrize("key", ["api_key", "password", "token"])
def test_a_value_named_like_a_secret_is_refused(harness, key):
    refusal = harness(*SWEEP, f"+dataset.{key}=CANARY").refusal()
    assert f"dataset.{key} looks like a secret" in refusal
    assert "CANARY" not in refusal


def test_a_path_in_a_secret_sounding_variable_is_no_secret(harness, monkeypatch, tmp_path):
    monkeypatch.setenv("SERVICE_TOKEN", str(tmp_path))
    said = harness(*SWEEP, "seeds=[0]", "question.total_batch_sizes=[512]", "dry_run=true", f"output_dir={tmp_path}")
    assert said.code == 0, said.err


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("tracking.mode=sometimes", "tracking.mode must be one of offline, online, auto, disabled, not 'sometimes'"),
        ("tracking.project='a/b'", "tracking.project must be 1 to 128 letters, digits"),
        ("tracking.finish_s=0", "tracking.finish_s must be in (0, 3600] seconds, not 0"),
        ("tracking.api_key=x", "unknown key 'tracking.api_key'"),
    ],
)
def test_tracking_is_refused_in_one_line(harness, argument, said):
    assert said in harness(*SWEEP, argument).refusal()
