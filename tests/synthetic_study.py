"""Studies written by hand: journals of trials that never ran, through the writers that real trials use."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from made_up import description, evaluation, placed

from harness.analyse.experiment import reopen
from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.plan.outcome import Outcome
from harness.plan.target import Target
from harness.plan.trial import PlannedTrial, Trial
from harness.record.files import append_lines, write_json
from harness.record.journal import Attempt
from harness.record.study import StudyFolder

SWEEP = [
    "+experiment=tbs_sweep",
    "question.total_batch_sizes=[16,128,512]",
    "seeds=[0,1,2]",
    "lr_scaling.rules=[none,linear]",
]
LRS = ["+experiment=base_lr", "question.lrs=[0.02,0.04,0.08,0.16,0.32]", "seeds=[0,1,2]"]

Accuracy = Callable[[Trial, int], float]  # of a trial after so many examples; nan where it was not a number


def learns(trial: Trial, examples: int) -> float:
    """Slower at a large TBS and far from LR 0.16, a little different for every seed."""
    tbs, lr = trial.arm.total_batch_size, trial.arm.settings.peak_lr
    need = 900 * (1 + tbs / 128) * (1 + 0.1 * abs(math.log2(lr / 0.16))) * (1 + 0.09 * trial.seed)
    return 1 - 0.9 * math.exp(-examples / need)


def never(trial: Trial, examples: int) -> float:
    return 0.1


def nan(trial: Trial, examples: int) -> float:
    return math.nan


def write_study(
    folder: Path,
    overrides: Sequence[str] = SWEEP,
    accuracy: Accuracy = learns,
    *,
    diverges: Callable[[Trial], bool] = lambda trial: False,
    runs: bool = True,
    timed: bool = True,
    hardware: Callable[[Trial], str] = lambda trial: "",
) -> StudyFolder:
    """A study folder as a finished sweep leaves it; without any trial where `runs` is False."""
    folder.mkdir(parents=True)
    made_by = {
        "git": {"commit": "0123abc", "dirty": False},
        "versions": {"python": "3.11", "torch": "2"},
        "hardware": {"cpu": "a <b>processor</b>", "cpus": 2, "device": "cpu"},
    }
    write_json(folder / "study.json", {**description(folder.name, overrides), **made_by})
    study = StudyFolder(folder)
    experiment, _ = reopen(study, trust=True)
    planned = [placed(trial) for trial in experiment.trials(Records(study))]
    append_lines(folder / "plan.jsonl", [p.to_json() for p in planned])
    if not runs:
        return study
    for p in {p.key: p for p in planned}.values():
        _write_trial(study.trial_path(p), p.trial, accuracy, diverges(p.trial), hardware(p.trial))
    if timed:
        rows = [_timing(p) for p in {p.topology.key: p for p in planned}.values()]
        append_lines(folder / "timing.jsonl", rows)
    return study


def findings_of(study: StudyFolder, target: Target | None = None, budget_examples: int | None = None) -> Findings:
    experiment, _ = reopen(study, trust=True)
    return experiment.conclude(Records(study, target, budget_examples))


def _timing(p: PlannedTrial) -> dict[str, Any]:
    key = f"{p.trial.arm.workload}/{p.trial.arm.optimizer}/{p.topology.key}"
    return {"key": key, "median_s": 0.004 + p.trial.arm.total_batch_size * 1e-5, "steps": 30}


def _write_trial(folder: Path, trial: Trial, accuracy: Accuracy, diverges: bool, hardware: str) -> None:
    settings = trial.arm.settings
    attempt = Attempt.claim(folder)
    attempt.start(0, hardware)
    outcome, metrics = Outcome.CENSORED, []
    for index in range(settings.budget_examples // settings.evaluate_every_examples):
        step = settings.evaluation_step(index)
        value = accuracy(trial, step * settings.total_batch_size)
        metrics.append(value)
        attempt.write(evaluation(step, step * settings.total_batch_size, value))
        if diverges and index == 3:
            outcome = Outcome.DIVERGED
            break
        if settings.target.crossing(metrics).confirmed is not None:
            outcome = Outcome.REACHED
            break
    attempt.finish({"outcome": str(outcome), "test": {"accuracy": metrics[-1] - 0.01, "loss": 0.2}})
    attempt.close()
