"""P26: secrets stay with the driver, and a worker gets those that cluster.pass_environment names, by actor calls."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sweeps import SMALL, start

from harness.launch.environment import passed, withheld, without_secrets
from harness.plan.cluster import ClusterConfig
from harness.plan.errors import UserError

ROOT = Path(__file__).parents[2]
SECRETS = {"AWS_SECRET_ACCESS_KEY": "CANARY-one", "HF_TOKEN": "CANARY-two", "MYTOKEN": "CANARY-three"}
DATA = """
import os
from harness.datasets.digits import Digits

NAMES = ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "MYTOKEN")

class Guarded(Digits):
    def load(self):
        got = [name for name in NAMES if name in os.environ]
        with open({seen!r}, "a") as file:
            file.write(f"{{os.getpid()}} {{' '.join(got)}}\\n")
        return super().load()
"""


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


def test_what_is_started_without_secrets_inherits_none_and_we_keep_ours(secrets):
    with without_secrets():
        child = subprocess.run(["env"], capture_output=True, text=True, check=True).stdout
    assert "CANARY" not in child
    assert "PATH=" in child
    assert {name: os.environ[name] for name in SECRETS} == SECRETS


def test_what_is_withheld_is_named_and_never_shown(secrets):
    for patterns, names in (
        ((), [*SECRETS]),
        (("AWS_*", "HF_TOKEN"), ["MYTOKEN"]),
        (("MY*",), ["AWS_SECRET", "HF_TO"]),
    ):
        line = withheld(patterns)
        assert line is not None
        assert all(name in line for name in names)
        assert "CANARY" not in line
        assert "cluster.pass_environment=[NAME,...]" in line
    assert "HF_TOKEN" not in str(withheld(("AWS_*", "HF_TOKEN")))


def test_a_pattern_passes_what_it_matches_and_nothing_that_ray_sets(secrets, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/x")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    chosen = {name: value for name, value in passed(["AWS_*", "HF_TOKEN"]).items() if "CANARY" in value}
    assert chosen == {name: SECRETS[name] for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN")}
    assert not {"RAY_AUTH_TOKEN_PATH", "CUDA_VISIBLE_DEVICES"} & {*passed(["*"])}
    assert passed([]) == {}


def test_a_pattern_is_a_name():
    with pytest.raises(UserError, match="must be names of environment variables, also like AWS_\\*, not 'A=b'"):
        ClusterConfig(launcher="ray", pass_environment=["AWS_*", "A=b"])


def test_a_node_of_a_slurm_job_asks_for_the_names_to_withhold(secrets):
    command = [sys.executable, "-P", "-m", "harness.launch.environment"]
    names = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    assert {*SECRETS} <= {*names}
    script = (ROOT / "slurm" / "ray_node.sh").read_text()
    assert script.count('"${clean[@]}" ray start') == script.count("ray start --") == 2


@pytest.mark.long
def test_workers_get_what_is_passed_on_and_nothing_else_keeps_it(tmp_path, secrets):
    seen = tmp_path / "seen"
    (tmp_path / "guarded.py").write_text(DATA.format(seen=str(seen)))
    passing = ["dataset._target_=guarded.Guarded", "cluster.pass_environment=[AWS_*,HF_TOKEN]", "seeds=[0]"]
    # W = 1 and 2
    sizes = [
        "cluster.workers_per_trial=null",
        "cluster.per_device_batch_size=128",
        "cluster.cpus=2",
        "lr_scaling=linear",
    ]
    process = start(tmp_path, *SMALL, *passing, *sizes, cwd=tmp_path)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert out.count("not passed on to Ray: MYTOKEN; ") == 1
    by_process = dict(line.split(" ", 1) for line in seen.read_text().splitlines())
    assert by_process.pop(str(process.pid)) == "AWS_SECRET_ACCESS_KEY HF_TOKEN MYTOKEN"
    ranks = [names for names in by_process.values() if "MYTOKEN" not in names]  # the timing pass runs without Ray
    assert len(ranks) >= 3
    assert {*ranks} == {"AWS_SECRET_ACCESS_KEY HF_TOKEN"}
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"CANARY" in path.read_bytes()]
