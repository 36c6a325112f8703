"""Every experiment of one round runs on gangs of two workers and concludes; its trials survive the way to Ray.

Through Ray itself some of them run (tests/launch/test_experiments_ray.py), with the same overrides.
"""

import json
import sys

import pytest
from one_round import RUNS, TINY, concludes

from harness.commands.main import main
from harness.launch.tasks import task_of
from harness.record.study import StudyFolder
from harness.train.trainer import Execution
from harness.train.worker import Task

pytestmark = pytest.mark.long


@pytest.mark.parametrize("name", RUNS)
def test_an_experiment_runs_on_gangs_of_two_and_concludes(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", list(sys.path))
    words = [f"+experiment={name}", "cluster=inline", *TINY, *RUNS[name], f"output_dir={tmp_path}", "study=s"]
    assert main(words) == 0, capsys.readouterr().err
    study = StudyFolder(tmp_path / name / "s")
    concludes(study.path)
    for planned in study.plan():  # as text, which is how Ray gets a trial
        task = task_of(planned, study.path, Execution())
        assert Task.from_json(json.loads(json.dumps(task.to_json())), task.folder, task.execution) == task
