"""The same command repairs a damaged study: what was damaged runs again, with the same bits, and nothing else."""

import json
import random
from pathlib import Path

import pytest
from broken_files import WAYS
from sweeps import SMALL, Sweep, inline, sweep

from harness.analyse.results import Records
from harness.commands.main import main
from harness.record.files import read_lines
from harness.record.study import StudyFolder

pytestmark = pytest.mark.long

GRID = [*SMALL, "cluster=inline", "lr_scaling.rules=[none,linear]"]
# File of a trial -> ways that damage it whatever it holds.
HARMFUL = {
    "record.json": ("empty", "half", "deep objects", "a list", "texts for numbers", "a directory"),
    "events.1.jsonl": ("empty", "half a line", "not UTF-8", "NaN", "a directory", "missing"),
}


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    found = inline(tmp_path_factory.mktemp("calm"), *GRID)
    assert found.code == 0, found.err
    return found


def test_the_same_command_runs_damaged_trials_again_and_nothing_else(calm, capsys):
    before, study = calm.science(), StudyFolder(calm.folder)
    trials = sorted(calm.folder.glob("trials/*/*"))
    assert len(trials) == 8
    moments, damaged = random.Random(2), {}
    for number, trial in enumerate(trials[:-1]):
        name = moments.choice([*HARMFUL])
        damaged[trial] = (name, HARMFUL[name][number % len(HARMFUL[name])])
        WAYS[damaged[trial][1]](trial / name)
    WAYS["half a line"](calm.folder / "plan.jsonl")
    WAYS["bit 0"](calm.folder / "timing.jsonl")
    kept = (trials[-1] / "record.json").read_bytes()
    listed = [f"trials/{trial.relative_to(calm.folder / 'trials')}" for trial in trials[:-1]]
    # `status` and `report` know only trials that the plan still lists.
    assert main(["status", str(calm.folder)]) == 0
    shown = capsys.readouterr().out
    assert "of plan.jsonl is damaged: its trial is excluded" in shown
    assert sum(where in shown for where in listed) >= 1

    again = inline(calm.folder.parents[1], *GRID)
    assert again.code == 0, again.out + again.err
    for where in listed:
        assert f"is damaged and runs again: {where}, " in again.out
    assert "damaged, excluded" not in again.out  # the report that follows
    assert Records(study).damage() == []
    assert again.science() == before
    assert (trials[-1] / "record.json").read_bytes() == kept
    assert len({json.dumps(row) for row in read_lines(calm.folder / "plan.jsonl")}) == len(study.plan())


def test_a_sweep_prints_its_table_whatever_the_encoding_of_standard_output(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    found = sweep(tmp_path, *GRID, "question.total_batch_sizes=[256]", "seeds=[0]", "workload.budget={epochs: 1}")
    assert (found.code, found.err) == (0, "")
    assert "report: " in found.out


def test_a_dead_driver_whose_clock_was_an_hour_ahead_is_shown_and_taken_over(tmp_path, capsys):
    arguments = [*GRID, "question.total_batch_sizes=[256]", "seeds=[0]", "workload.budget={epochs: 1}"]
    command = [*arguments, f"output_dir={tmp_path}", "study=s"]
    assert main(command) == 0
    lease = Path(tmp_path / "tbs_sweep/s/leases/1.json")
    held = json.loads(lease.read_text())
    held = {**held, "host": "node7", "heartbeat": held["heartbeat"] + 3600, "released": False}
    lease.write_text(json.dumps(held))
    capsys.readouterr()
    assert main(command) == 2
    refused = capsys.readouterr().err
    assert f"error: study s is being run by process {held['pid']} on node7 (heartbeat 3" in refused
    assert "s ahead of this machine's clock): wait for it, end it, or choose another study name (it began at" in refused
    assert refused.endswith(" UTC); if it is dead, add --take-over to the same command\n")
    assert main([*command, "--take-over"]) == 0
    assert f"taken over from process {held['pid']} on node7 (heartbeat 3" in capsys.readouterr().out
