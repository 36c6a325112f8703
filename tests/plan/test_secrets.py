"""P25: what counts as a secret, by its name and by its look."""

import pytest

from harness.plan.secrets import is_secret_name, is_secret_value, matching, secret_variables

SECRETS = (
    "MYTOKEN HF_TOKEN GITHUB_TOKEN_2 AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_PROFILE DBPASS "
    "AZURE_CLIENT_ID WANDB_API_KEY OPENAI_APIKEY SSH_PRIVATE_KEY DB_PASSWORD PGPASSWORD MYSQL_PWD DB_PASS my_secret "
    "GOOGLE_APPLICATION_CREDENTIALS SLURM_JWT SENTRY_DSN GH_PAT SLACK_WEBHOOK KEY SIGNING_KEY SESSION_COOKIE"
)
ORDINARY = (
    "PATH HOME PWD OLDPWD TOKENIZERS_PARALLELISM MAX_TOKENS CUDA_VISIBLE_DEVICES NCCL_SOCKET_IFNAME OMP_NUM_THREADS "
    "SLURM_JOB_ID SSH_ASKPASS KEYBOARD_LAYOUT DATA_DIR PYTHONPATH LD_LIBRARY_PATH AWS_CA_BUNDLE AWS_REGION LS_COLORS "
    "AWS_DEFAULT_REGION HF_HOME MASTER_ADDR LANG TERM DISPLAY"
)


@pytest.mark.parametrize("name", SECRETS.split())
def test_a_variable_named_like_a_secret_is_one(name):
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ORDINARY.split())
def test_an_ordinary_variable_is_none(name):
    assert not is_secret_name(name)


@pytest.mark.parametrize("value", ["postgres://me:pw@host/db", "ghp_" + "a" * 36, "-----BEGIN RSA PRIVATE KEY-----"])
def test_some_values_are_secrets_whatever_their_name(value):
    assert is_secret_value(value)
    assert secret_variables({"PLACE": value}) == ["PLACE"]


@pytest.mark.parametrize("value", ["https://host:8080/a@b", "hf_internal_testing_model", "risk-" + "a" * 30, "/a/b"])
def test_other_values_are_not(value):
    assert not is_secret_value(value)


def test_a_copy_of_a_secret_is_one_under_any_name_and_rays_own_token_stays():
    environment = {
        "HF_TOKEN": "CANARY-1",
        "COPY": "CANARY-1",
        "RAY_AUTH_TOKEN_PATH": "/x",
        "CERT": "/c",
        "MY_KEY": "/c",
    }
    assert secret_variables(environment) == ["COPY", "HF_TOKEN", "MY_KEY"]


def test_patterns_choose_variables():
    names = ["AWS_A", "AWS_B", "HF_TOKEN", "XAWS_C"]
    assert matching(names, ["AWS_*", "HF_TOKEN"]) == names[:3]
    assert matching(names, []) == []
