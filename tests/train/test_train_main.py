"""The door of its own: torchrun -m harness.train trial.json, without Ray, Hydra or W&B, and what it refuses."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_trials import DIGITS, SMALL, evaluations, events, run, run_on_ranks, task, timeless

from harness.commands.train import main
from harness.plan.target import Target
from harness.record.files import read_json, write_json
from harness.record.journal import Attempt, read_trial
from harness.train.worker import Task

# Python runs sitecustomize before anything else: whoever imports one of these there finds it missing.
WITHOUT_THEM = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"ray", "hydra", "omegaconf", "wandb", "psutil"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
"""


def written(folder: Path, order: Task) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "trial.json", order.to_json())
    return folder / "trial.json"


def subprocess_without_them(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    (folder / "missing").mkdir()
    (folder / "missing/sitecustomize.py").write_text(WITHOUT_THEM)
    environment = {**os.environ, "PYTHONPATH": str(folder / "missing"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_one_rank_runs_where_ray_hydra_and_wandb_are_not_installed(worker, tmp_path):
    path = written(tmp_path / "door", task(tmp_path))
    done = subprocess_without_them(tmp_path, "-m", "harness.train", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 7
    assert lines[0].startswith("step 2: 0.5 epochs, train loss ")
    assert lines[-1].startswith("censored, ended at step 12, test loss ")
    expected = run(worker, task(tmp_path / "worker"))
    assert timeless(events(tmp_path / "door")[1:]) == timeless(json.loads(json.dumps(expected)))
    score = expected[-2]["validation"]["averaged"]
    assert lines[5].endswith(f"loss {score['loss']:.4f}, accuracy {score['accuracy']:.4f}")


@pytest.mark.long
def test_torchrun_runs_two_ranks_without_them(tmp_path):
    path = written(tmp_path / "door", task(tmp_path, world=2))
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = subprocess_without_them(tmp_path, *torchrun, "-m", "harness.train", str(path))
    assert (done.returncode, "Warning" in done.stderr) == (0, False), done.stderr
    assert [line.partition(":")[0] for line in done.stdout.splitlines()][:-1] == [f"step {2 * i}" for i in range(1, 7)]
    expected = run_on_ranks(task(tmp_path / "ranks", world=2))[0]
    assert timeless(events(tmp_path / "door")[1:]) == timeless(json.loads(json.dumps(expected)))


def test_a_trial_goes_to_the_folder_it_is_told(tmp_path, capsys):
    path = written(tmp_path / "given", task(tmp_path))
    assert main([str(path), "--folder", str(tmp_path / "elsewhere")]) == 0
    assert read_trial(tmp_path / "elsewhere").is_finished
    assert [p.name for p in (tmp_path / "given").iterdir()] == ["trial.json"]
    assert read_json(tmp_path / "elsewhere/trial.json") == read_json(path)
    assert "censored, ended at step 12" in capsys.readouterr().out


def test_a_trial_dropped_before_goes_on_from_its_checkpoint(worker, tmp_path, capsys):
    order = replace(task(tmp_path), execution=replace(task(tmp_path).execution, checkpoint_every_s=0.0))
    worker.start(order)
    worker.advance(0.0)
    worker.stop()
    assert main([str(tmp_path / "trial.json")]) == 0
    assert capsys.readouterr().out.startswith("resumed from step 2\nstep 4: 1 epoch")


def test_a_finished_trial_is_not_run_again(worker, tmp_path, capsys):
    run(worker, task(tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert main([str(tmp_path / "trial.json")]) == 0
    assert capsys.readouterr().out == "already finished: censored, ended after 3 epochs\n"
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("target", [Target("accuracy", 0.3, "max"), Target("loss", 1e9, "min")])
def test_a_reached_target_ends_the_lines(tmp_path, capsys, target):
    path = written(tmp_path, task(tmp_path, replace(SMALL, target=target)))
    assert main([str(path)]) == 0
    outcome = capsys.readouterr().out.splitlines()[-1]
    steps = evaluations(events(tmp_path))[-1]["step"]
    assert outcome.startswith(f"reached, ended at step {steps}, test loss")


def edited(change: dict[str, Any]) -> dict[str, Any]:
    """trial.json of a small trial with other settings, and the id that belongs to them."""
    return task(Path(), replace(SMALL, **change)).to_json()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"is not a trial.json: it is missing or not a JSON object"),
        ("[]", r"is not a trial.json: it is missing or not a JSON object"),
        ("{}", r"is not a trial.json: KeyError 'topology'"),
        (json.dumps({**edited({}), "settings": {"loss": "mse"}}), "is not a trial.json: KeyError 'dataset'"),
        (json.dumps({**edited({}), "seed": 7}), "has trial_id .* an edited trial needs its own id"),
        (json.dumps(edited({"loss": "hinge"})), "unknown loss 'hinge'"),
        (json.dumps(edited({"model": {**SMALL.model, "clases": 3}})), "'clases': did you mean 'classes'"),
        (json.dumps(edited({"dataset": {**DIGITS, "_target_": "harness.datasets.digits.Digit"}})), "did you mean"),
        (json.dumps(edited({"train_examples": 300})), "has 256 examples, but the trial was planned for 300"),
        (json.dumps(task(Path(), world=2).to_json()), "but 1 rank were started: use torchrun --nproc-per-node 2"),
    ],
)
def test_what_cannot_run_is_told_in_one_line_with_exit_code_2(tmp_path, capsys, content, message):
    (tmp_path / "trial.json").write_text(content)
    assert main([str(tmp_path / "trial.json")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    assert re.search(message, told), told
    assert read_trial(tmp_path).outcome is None


def test_a_folder_of_another_trial_and_a_folder_that_cannot_be_are_refused(worker, tmp_path, capsys):
    run(worker, task(tmp_path / "one", seed=1))
    path = written(tmp_path / "two", task(tmp_path, seed=2))
    assert main([str(path), "--folder", str(tmp_path / "one")]) == 2
    assert "already has another trial: choose another --folder" in capsys.readouterr().err
    assert main([str(path), "--folder", str(path / "below a file")]) == 2
    assert "cannot be created (Not a directory): choose another --folder" in capsys.readouterr().err


def test_a_trial_taken_over_by_another_attempt_ends_with_exit_code_1(tmp_path, capsys, monkeypatch):
    start = Attempt.start
    monkeypatch.setattr(Attempt, "start", lambda self, *row: (Attempt.claim(self.folder), start(self, *row)))
    assert main([str(written(tmp_path, task(tmp_path)))]) == 1
    assert capsys.readouterr().err == f"error: attempt 1 of {tmp_path} was taken over\n"
