"""Drivers killed at fifty random moments while they write: every trial ends once, with the rows of one left alone.

These drivers need no torch. They lease, plan, claim, journal and record through the code of real ones; only what they
write is made up. Real drivers are killed in tests/launch.
"""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from made_up import planned

from harness.plan.outcome import Outcome
from harness.plan.trial import PlannedTrial
from harness.record.files import read_json, read_lines, write_json
from harness.record.journal import Attempt
from harness.record.study import Study, StudyFolder

pytestmark = pytest.mark.long

DESCRIPTION = {"experiment": "tbs_sweep", "code_fingerprint": "c0de", "data_fingerprint": "da7a"}
TRIALS = [planned("linear", 128, seed) for seed in range(6)]
STEPS = 12  # of a trial; a checkpoint follows every third


def drive(path: Path) -> None:
    """Run every unfinished trial, each from its last checkpoint."""
    study = Study.open(path, DESCRIPTION)
    study.add_plan(TRIALS)
    for trial in TRIALS:
        if not study.record(trial).is_finished:
            train(study, trial)
    study.close()


def train(study: Study, trial: PlannedTrial) -> None:
    folder = study.trial_path(trial)
    attempt = Attempt.claim(folder)
    done = read_json(folder / "checkpoint.json") or 0
    attempt.start(done)
    for step in range(done + 1, STEPS + 1):
        attempt.write(row(trial, step))
        if step % 3 == 0:
            write_json(folder / "checkpoint.json", step)
        time.sleep(0.002)
    test = {"accuracy": 0.5}
    attempt.write({"kind": "end", "outcome": Outcome.CENSORED, "step": STEPS, "diverged_at_step": None, "test": test})
    last = row(trial, STEPS)
    counted = {"steps": STEPS, "examples": last["examples"], "epochs": last["epochs"], "evaluations": STEPS}
    attempt.finish(
        {"outcome": Outcome.CENSORED, **counted, "diverged_at_step": None, "test": test, "clock": last["clock"]}
    )
    attempt.close()


def row(trial: PlannedTrial, step: int) -> dict[str, Any]:
    scores = {"raw": {"accuracy": 0.01 * step + 0.001 * trial.trial.seed}}
    where = {"step": step, "examples": 128 * step, "epochs": 128 * step / 1024}
    return {"kind": "evaluation", **where, "validation": scores, "clock": {"train_s": 0.1 * step}}


@pytest.mark.parametrize("seed", range(2))
def test_fifty_kills_lose_and_repeat_nothing(tmp_path, seed):
    context, moments = multiprocessing.get_context("fork"), random.Random(seed)
    kills, studies = 0, 0
    while kills < 25:
        path = tmp_path / f"s{studies}"
        studies += 1
        finished: dict[Path, bytes] = {}
        while True:
            driver = context.Process(target=drive, args=(path,))
            driver.start()
            if kills < 25:
                driver.join(moments.uniform(0.0, 0.2))
            else:
                driver.join()
            if driver.exitcode is not None:
                assert driver.exitcode == 0
                break
            assert driver.pid is not None
            os.kill(driver.pid, signal.SIGKILL)
            driver.join()
            kills += 1
            now = {record: record.read_bytes() for record in path.glob("trials/*/*/record.json")}
            assert finished.items() <= now.items()
            finished = now
        as_if_left_alone(path)


def as_if_left_alone(path: Path) -> None:
    study = StudyFolder(path)
    assert study.plan() == TRIALS
    assert study.damage() == []
    for trial in TRIALS:
        record = study.record(trial)
        assert (record.outcome, record.damage) == (Outcome.CENSORED, None)
        assert record.evaluations == [row(trial, step) for step in range(1, STEPS + 1)]
    assert len(list(path.glob("trials/*/*/record.json"))) == len(TRIALS)
    assert len(list(read_lines(path / "plan.jsonl"))) == len(TRIALS)
