"""docs/sharding.md is true: its files and its command, in an empty folder; one worker computes the same."""

import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.plan.batch import BatchPlan
from harness.record.files import read_lines
from harness.train.worker import Task, Worker

PAGE = (Path(__file__).parents[1] / "docs" / "sharding.md").read_text()
FILES = re.findall(r"```\w+ file=(\S+)\n(.*?)```", PAGE, re.DOTALL)
(COMMAND,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.long
def test_the_command_trains_split_what_one_worker_trains_alone(tmp_path, monkeypatch):
    for name, text in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    program, *arguments = shlex.split(COMMAND)
    assert program == "harness"
    command = [sys.executable, "-m", "harness", *arguments, "tracking=disabled", "cluster.timing_min_s=0.1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr

    (folder,) = (tmp_path / "outputs/tbs_sweep/default/trials").glob("*/*")
    assert folder.name == "cpu-w2-b16-a2-float64-full"
    split = [row for row in read_lines(folder / "events.1.jsonl") if row["kind"] == "evaluation"]
    monkeypatch.syspath_prepend(tmp_path)
    planned = Task.from_json(json.loads((folder / "trial.json").read_text()), str(tmp_path / "alone"))
    topology = replace(planned.topology, batch=BatchPlan(64, 64, 1, 1), sharding="none")
    worker = Worker(0, 1, "cpu", 1)
    worker.start(replace(planned, topology=topology))
    alone = [row for row in worker.advance(1e9) if row["kind"] == "evaluation"]

    assert len(split) == len(alone) > 2
    assert split[-1]["validation"]["averaged"]["accuracy"] >= 0.95
    for ours, theirs in zip(split, alone, strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], abs=1e-10, rel=0)
        for weights in ("raw", "averaged"):
            assert ours["validation"][weights] == pytest.approx(theirs["validation"][weights], abs=1e-10, rel=0)
