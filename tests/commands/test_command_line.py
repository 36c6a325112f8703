"""The command as a person's shell sees it: exit codes, streams, both of its names, and what it loads to answer."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DOORS = {"module": [sys.executable, "-m", "harness"], "script": [str(Path(sys.executable).with_name("harness"))]}
SMALL = ["+experiment=tbs_sweep", "cluster=inline", "tracking=disabled", "seeds=[0]", "lr_scaling=linear"]
SHORT = ["question.total_batch_sizes=[512]", "workload.budget={epochs: 1}", "cluster.timing_min_s=0"]

# Prints which of some heavy packages a command has loaded by the time it ends.
LOADED = """
import json, sys
from harness.commands.main import main
sys.argv = ["harness", *json.loads(sys.argv[1])]
code = main()
heavy = {"torch", "ray", "wandb", "scipy", "pandas", "matplotlib", "sklearn"}
print(json.dumps([code, sorted(heavy & set(sys.modules))]))
"""


def shell(folder: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def loaded(folder: Path, *arguments: str) -> tuple[int, list[str]]:
    """(exit code, heavy packages loaded)."""
    done = shell(folder, sys.executable, "-c", LOADED, json.dumps(arguments))
    code, packages = json.loads(done.stdout.splitlines()[-1])
    return code, packages


@pytest.mark.parametrize("door", DOORS)
def test_bad_input_ends_with_2_and_one_line_on_stderr(tmp_path, door):
    done = shell(tmp_path, *DOORS[door], "+experiment=tbs_sweep", "workload.base_lr=-1")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: workload.base_lr must be a number > 0, not -1.0\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("door", DOORS)
def test_help_ends_with_0_and_says_nothing_on_stderr(tmp_path, door):
    done = shell(tmp_path, *DOORS[door], "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_a_finished_sweep_ends_with_0_and_an_empty_stderr_whatever_lies_in_the_folder(tmp_path):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "__init__.py").write_text("raise RuntimeError('not the experiments of the harness')\n")
    done = shell(tmp_path, *DOORS["module"], *SMALL, *SHORT)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert (tmp_path / "outputs/tbs_sweep/default/results.csv").is_file()


LIGHT = {
    "help": (["--help"], 0),
    "configuration": (["+experiment=tbs_sweep", "--cfg", "job"], 0),
    "unknown name": (["+experiment=tbs_swep"], 2),
    "misspelt key": (["+experiment=tbs_sweep", "workload.bse_lr=1"], 2),
    "negative LR": (["+experiment=tbs_sweep", "workload.base_lr=-1"], 2),
    "no seeds": (["+experiment=tbs_sweep", "seeds=[]"], 2),
    "unknown rule": (["+experiment=tbs_sweep", "lr_scaling.rules=[foo]"], 2),
    "wrong direction": (["+experiment=tbs_sweep", "workload.target.mode=min"], 2),
}


@pytest.mark.parametrize("case", LIGHT)
def test_what_needs_no_data_is_answered_without_loading_torch_or_anything_heavy(tmp_path, case):
    arguments, code = LIGHT[case]
    assert loaded(tmp_path, *arguments) == (code, [])


@pytest.mark.long
def test_a_plan_is_checked_without_loading_ray_or_drawing_anything(tmp_path):
    code, packages = loaded(tmp_path, *SMALL, "dry_run=true", "cluster=local")
    assert code == 0
    assert not {"ray", "wandb", "matplotlib"} & set(packages)
