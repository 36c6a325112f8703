"""The mode is decided before wandb is imported, in bounded time, and nothing strange is passed on."""

import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from wandb_server import KEY, WandbServer

from harness.plan.errors import UserError
from harness.record.tracking import settings
from harness.record.tracking.settings import PRIVATE, decide, environment, run_settings

PATIENT_S = 120.0  # where the answer counts and not its time: other work may go on on this machine


def given(server: WandbServer) -> dict[str, str]:
    return {**os.environ, **server.environment()}


@pytest.mark.parametrize(("illness", "reason"), [("401", "rejects the login"), ("500", "answers with HTTP 500")])
def test_an_ill_server_is_told_apart_and_online_refused(illness, reason, monkeypatch):
    monkeypatch.setattr(settings, "REACH_S", PATIENT_S)
    with WandbServer() as server:
        server.fault = illness
        with pytest.raises(UserError, match=rf"^tracking=online: http://127.0.0.1:\d+ {reason}"):
            decide("online", given(server))


def test_a_server_that_never_answers_is_given_up_in_time(monkeypatch):
    monkeypatch.setattr(settings, "REACH_S", 1.0)
    with WandbServer() as server:
        server.fault = "stall"
        began = time.monotonic()
        found = decide("auto", given(server))
        assert time.monotonic() - began < 1.0 + 5.0
        assert found.mode == "offline"
        assert "did not answer within 1 s" in str(found.why)


def test_offline_and_disabled_ask_nobody():
    nowhere = {"WANDB_BASE_URL": "http://127.0.0.1:9"}
    assert [decide(mode, nowhere).mode for mode in ("offline", "disabled")] == ["offline", "disabled"]


def test_only_the_place_and_the_person_of_w_and_b_s_environment_are_passed_on(tmp_path):
    strange = {"WANDB_NOTES": "x", "WANDB_RUN_ID": "x", "WANDB_SERVICE": "x", "WANDB_MODE": "disabled"}
    given = {**strange, "WANDB_BASE_URL": "http://h", "WANDB_API_KEY": KEY, "HOME": "/h"}
    online = environment("online", tmp_path, given)
    assert {key: online[key] for key in ("HOME", "WANDB_BASE_URL", "WANDB_API_KEY", "WANDB_MODE")} == {
        "HOME": "/h",
        "WANDB_BASE_URL": "http://h",
        "WANDB_API_KEY": KEY,
        "WANDB_MODE": "online",
    }
    assert not set(strange) - {"WANDB_MODE"} & set(online)
    assert "WANDB_API_KEY" not in environment("offline", tmp_path, given)


def test_a_setting_that_the_installed_wandb_does_not_know_is_left_out(monkeypatch):
    monkeypatch.setitem(PRIVATE, "x_renamed_in_some_release", True)
    settings = run_settings(finish_timeout=3.0)
    assert settings.finish_timeout == 3.0
    assert (settings.host, settings.program, settings.x_disable_meta) == ("redacted", "harness", True)


def test_the_oldest_wandb_that_the_project_declares_is_the_one_it_tests():
    import wandb

    root = Path(__file__).resolve().parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["wandb-reports"]]
    least = {name: version for text in declared for name, version in re.findall(r"^(wandb[\w-]*)>=([\d.]+)", text)}
    assert least.keys() == {"wandb", "wandb-workspaces"}
    for name, version in least.items():
        pinned = re.search(rf"^{name}==([\d.]+)$", (root / "constraints.txt").read_text(), re.MULTILINE)
        assert pinned is not None
        assert pinned.group(1).split(".")[: version.count(".") + 1] == version.split(".")
    assert wandb.__version__.startswith(f"{least['wandb']}.")


def test_every_private_setting_is_known_to_the_wandb_that_the_project_pins():
    import wandb

    assert set(PRIVATE) <= set(wandb.Settings.model_fields)


SERVER = """
import os, sys
from pathlib import Path
from harness.record.tracking.settings import environment, import_wandb
os.environ.update(environment("offline", Path(sys.argv[1]), os.environ))
print(import_wandb(Path(sys.argv[1])).setup().settings.base_url)
"""


@pytest.mark.long
def test_a_settings_file_of_the_working_directory_names_no_server_for_our_key(tmp_path):
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "settings").write_text("[default]\nbase_url = http://127.0.0.1:9\n")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    names = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    command = [sys.executable, "-P", "-c", SERVER, str(scratch)]
    done = subprocess.run(command, cwd=tmp_path, env={**names, "HOME": str(scratch)}, capture_output=True, text=True)
    assert done.stdout.startswith("https://"), done.stderr  # the default of this wandb, and not the planted one
