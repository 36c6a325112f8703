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


@pytest.mark.parametrize(
    ("name", "value"),
    [("MYTOKEN", "CANARY/12345678"), ("AWS_ACCESS_KEY_ID", "/CANARY+12345678/x"), ("DB_PASSWORD", "short")],
)
def test_a_secret_variable_is_refused_wherever_it_is_read(harness, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    reads = f"${{oc.env:{name}}}"
    for key, argument in (
        ("study", f"study={reads}"),
        ("output_dir", f"output_dir=/tmp/{reads}"),
        ("model.width", f"+model.width='${{oc.decode:{reads}}}'"),
        ("dataset.user", f"+dataset.user=${{oc.env:{name},nobody}}"),
    ):
        refusal = harness(*SWEEP, argument).refusal()
        assert f"{key} contains the value of the environment variable {name}" in refusal
        assert value not in refusal


@pytest.mark.parametrize("key", ["study", "output_dir", "tracking.entity", "cluster.address"])
def test_a_secret_that_the_shell_put_there_is_not_quoted_by_the_check_of_its_key(harness, monkeypatch, key):
    monkeypatch.setenv("MYTOKEN", "CANARY/12345678")
    refusal = harness(*SWEEP, f"{key}=CANARY/12345678").refusal()
    assert f"{key} contains the value of the environment variable MYTOKEN" in refusal
    assert "CANARY" not in refusal


@pytest.mark.parametrize(
    "value",
    ["hf_" + "a1" * 17, "AKIAIOSFODNN7EXAMPLE", "https://me:pass@host/x", "ghp_" + "a" * 36, "sk-proj-" + "a" * 20],
)
def test_a_value_in_the_form_of_a_secret_is_refused(harness, value):
    refusal = harness(*SWEEP, f"+dataset.url='{value}'").refusal()
    assert "dataset.url looks like a secret" in refusal
    assert value not in refusal


@pytest.mark.parametrize(
    "argument",
    [
        "+dataset.eos_token='<eos>'",
        "+dataset.tokens=train.bin",
        "+dataset.sort_key=name",
        "+dataset.name=hf_internal_testing",
    ],
)
def test_ordinary_values_are_no_secrets(harness, monkeypatch, argument):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "train.bin")
    assert "secret" not in harness(*SWEEP, argument, "dry_run=true").err


@pytest.mark.parametrize("key", ["api_key", "password", "token", "hf_token", "mytoken", "aws_secret_access_key"])
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
