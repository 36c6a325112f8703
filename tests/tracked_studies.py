"""Studies of made-up trials with real journals, leases and events, and what W&B got of them."""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from made_up import description, evaluation, placed

from harness.analyse.experiment import reopen
from harness.analyse.results import Records
from harness.launch.listener import Listener
from harness.plan.outcome import Outcome
from harness.plan.trial import PlannedTrial
from harness.record.journal import Attempt
from harness.record.study import Study, StudyFolder
from harness.record.tracking.runs import metrics_of

ROOT = Path(__file__).resolve().parents[1]
# The base point lies below the grid, so that no two rules share a trial: 6 TBS x 3 rules x 3 seeds = 54 trials.
FIFTY_FOUR = ["workload.base_batch_size=8", "seeds=[0,1,2]"]
SMALL = ["question.total_batch_sizes=[16,128]", "seeds=[0]", "lr_scaling.rules=[none,linear]"]


def open_study(
    path: Path, overrides: Sequence[str] = SMALL, experiment: str = "tbs_sweep"
) -> tuple[Study, list[PlannedTrial]]:
    """A new study, its lease held, and its distinct trials in plan order."""
    study = Study.open(path, description(path.name, [f"+experiment={experiment}", *overrides]))
    question, _ = reopen(study)
    planned = [placed(trial) for trial in question.trials(Records(study))]
    study.add_plan(planned)
    return study, list({each.key: each for each in planned}.values())


def evaluations(planned: PlannedTrial) -> list[dict[str, Any]]:
    """A learning curve: slower at a large TBS, different for every seed; until the target is confirmed."""
    settings = planned.trial.arm.settings
    rows, scores = [], []
    for index in range(settings.budget_examples // settings.evaluate_every_examples):
        step = settings.evaluation_step(index)
        examples = step * settings.total_batch_size
        need = 800 * (1 + settings.total_batch_size / 128) * (1 + 0.1 * planned.trial.seed)
        accuracy = 1 - 0.9 * math.exp(-examples / need)
        scores.append(accuracy)
        more = {
            "epochs": examples / settings.train_examples,
            "lr": settings.peak_lr,
            "train_loss": 3.1 * (1 - accuracy),
        }
        diagnostics = {"gradient_norm": 1.0 + index, "update_ratio": {"head": 1e-3}}
        row = {**evaluation(step, examples, accuracy), **more, "examples_per_s": 1000.0, "diagnostics": diagnostics}
        row["machine"] = {"process_cpus": 0.9}
        rows.append(row)
        if settings.target.crossing(scores).confirmed is not None:
            break
    return rows


def attempt(
    study: StudyFolder,
    planned: PlannedTrial,
    listener: Listener,
    resumed_step: int = 0,
    stop_after: int | None = None,
    diverges: bool = False,
) -> None:
    """One attempt at a trial, journal first and listener second as in a worker and its driver; `stop_after` rows it
    breaks off, as a killed worker would; one that `diverges` does so at its first evaluation."""
    settings = planned.trial.arm.settings
    listener.trial_started(planned)
    journal = Attempt.claim(study.trial_path(planned))
    journal.start(resumed_step)
    ready = {"kind": "ready", "step": resumed_step, "attempt": journal.number, "startup_s": 0.1}
    journal.write(ready)
    listener.trial_rows(planned, [ready])
    rows = [row for row in evaluations(planned) if row["step"] > resumed_step]
    if diverges:
        rows = [{**rows[0], "train_loss": math.inf, "validation": {}}]
    for row in rows[:stop_after]:
        journal.write(row)
        listener.trial_rows(planned, [row])
    if stop_after is not None:
        journal.close()
        return
    last = rows[-1]
    if diverges:
        outcome = Outcome.DIVERGED
    else:
        reached = last["validation"]["averaged"]["accuracy"] >= settings.target.value
        outcome = Outcome.REACHED if reached else Outcome.CENSORED
    # The test set is read after the last evaluation.
    clock = {**last["clock"], **{key: last["clock"][key] + 0.25 for key in ("evaluate_s", "total_s")}}
    ended: dict[str, Any] = {"outcome": outcome, "diverged_at_step": None, "test": {"accuracy": 0.95}, "clock": clock}
    ended |= {"diverged_at_step": last["step"], "test": {}} if diverges else {}
    counted = {"steps": last["step"], "examples": last["examples"], "epochs": last["epochs"]}
    journal.finish({**ended, **counted, "evaluations": 1 if diverges else len(evaluations(planned))})
    journal.close()
    listener.trial_rows(planned, [{"kind": "end", "step": last["step"], **ended}])


class Deaf:
    """A listener that hears nothing: a study that nobody tracks."""

    def trial_started(self, planned: PlannedTrial) -> None: ...

    def trial_rows(self, planned: PlannedTrial, rows: Sequence[dict[str, Any]]) -> None: ...

    def trial_failed(self, planned: PlannedTrial, reason: str, final: bool) -> None: ...

    def trials_over(self) -> None: ...


def track(study: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """python -m harness.track STUDY ARGUMENTS, as a person would."""
    command = [sys.executable, "-m", "harness.track", str(study), *arguments]
    given = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, capture_output=True, text=True, env=given, timeout=120)


def has_word(body: bytes, text: str) -> bool:
    """Whether a request names something; as a whole word, because digests hold any two or three letters by chance."""
    return re.search(rb"(?<![\w+/])" + re.escape(text.encode()) + rb"(?![\w+/])", body) is not None


def inspected(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """History rows of every offline run below a folder by W&B's id, read by W&B's own reader."""
    return {path.stem.removeprefix("run-"): list(_history(path)) for path in sorted(folder.rglob("*.wandb"))}


def _history(path: Path) -> Iterator[dict[str, Any]]:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    # W&B's command line logs into a folder where it runs.
    quiet = {**os.environ, "WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false"}
    done = subprocess.run(command, capture_output=True, text=True, env=quiet, cwd=path.parent, timeout=60, check=True)
    for line in done.stdout.splitlines():
        record = json.loads(line)
        if record["type"] == "history":
            yield record["history"]["item"]


def steps(rows: Sequence[dict[str, Any]]) -> list[int]:
    """W&B's steps of history rows, in the order they are kept."""
    return [row["_step"] for row in rows]


def expected(study: StudyFolder, planned: PlannedTrial) -> list[dict[str, Any]]:
    """A trial's journal as W&B has to hold it."""
    decide_on = planned.trial.arm.settings.averaging.decide_on
    return [{"_step": row["step"], **metrics_of(row, decide_on)} for row in study.record(planned).evaluations]


def expected_summary(study: StudyFolder, planned: PlannedTrial) -> dict[str, Any]:
    """A run's whole summary from its trial's files: W&B keeps the last value of everything in the rows, and to that
    come the trial's own values, which share no key with it unless they are the same."""
    record, rows = study.record(planned).record, study.record(planned).evaluations
    target, size = planned.trial.arm.settings.target, planned.trial.arm.settings.train_examples
    scores = [row["validation"]["averaged"][target.metric] for row in rows if row["validation"]]
    at = next((i for i, pair in enumerate(pairwise(scores)) if min(pair) >= target.value), None)  # confirmed once
    of_rows = {key: value for row in expected(study, planned) for key, value in row.items() if key != "_step"}
    of_trial = {
        **{key: record[key] for key in ("outcome", "steps", "examples", "epochs", "evaluations", "attempt")},
        **{f"test/{key}": value for key, value in record["test"].items()},
        **{f"trial_clock/{key}": value for key, value in record["clock"].items()},
        "journal_rows": len(rows),
        "reached": at is not None,
    }
    if scores:
        of_trial |= {f"best/{target.metric}": max(scores), f"final/{target.metric}": scores[-1]}
    else:
        of_trial["diverged_at_step"] = record["diverged_at_step"]
    if at is not None:
        of_trial |= {"steps_to_target": rows[at]["step"], "examples_to_target": rows[at]["examples"]}
        of_trial["epochs_to_target"] = rows[at]["examples"] / size
        of_trial["seconds_to_target_packed"] = rows[at]["clock"]["train_s"]
    assert not {key for key in of_rows.keys() & of_trial.keys() if of_rows[key] != of_trial[key]}
    return of_rows | of_trial


def own_summary(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A run's summary without W&B's own values."""
    return {key: value for key, value in summary.items() if not key.startswith("_")}
