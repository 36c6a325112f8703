"""Runs an experiment on made-up learning curves: journals as real trials write them, in any order, stopped anywhere."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from made_up import description, evaluation, placed

from harness.analyse.experiment import Experiment, Racing, reopen
from harness.analyse.findings import Findings
from harness.analyse.results import Records
from harness.plan.instantiate import instantiate
from harness.plan.outcome import Outcome
from harness.plan.settings import Settings
from harness.plan.trial import PlannedTrial, Trial
from harness.record.files import append_lines, write_json
from harness.record.journal import Attempt, read_trial
from harness.record.study import StudyFolder

NO_RECORDS = Records(StudyFolder(Path("a study that nobody has begun")))
Curve = Callable[[Trial, int], float]  # the validation accuracy of a trial after so many examples


def new_study(folder: Path, *overrides: str) -> StudyFolder:
    """A study that has planned nothing yet."""
    folder.mkdir(parents=True)
    write_json(folder / "study.json", description(folder.name, overrides))
    return StudyFolder(folder)


class Simulation:
    """A driver with `slots` places that runs a study's trials on `curve`; everything it knows lies in the folder."""

    def __init__(self, study: StudyFolder, curve: Curve, *, slots: int = 1, seed: int = 0) -> None:
        self.study = study
        self.curve = curve
        self.slots = slots
        self.random = random.Random(seed)
        self.experiment: Experiment = reopen(study, trust=True)[0]
        self.records = Records(study)
        self.limits: dict[str, float] = {}
        self._written = {planned.key for planned in study.plan()}

    def planned(self) -> list[PlannedTrial]:
        """Every trial asked for by now, each once."""
        found = [placed(trial) for trial in self.experiment.trials(self.records)]
        distinct = {planned.key: planned for planned in found}
        fresh = [planned for key, planned in distinct.items() if key not in self._written]
        append_lines(self.study.path / "plan.jsonl", [planned.to_json() for planned in fresh])
        self._written |= distinct.keys()
        self.records.add(fresh)
        self.limits = dict(self.experiment.limits(self.records)) if isinstance(self.experiment, Racing) else {}
        return list(distinct.values())

    def open(self) -> list[PlannedTrial]:
        """What is asked for, has no result and may still begin."""
        wanted = [p for p in self.planned() if not self.records.is_finished(p, self.limits.get(p.trial.trial_id))]
        return [p for p in wanted if self.limits.get(p.trial.trial_id, 1.0) > 0]

    def run(self, most: int | None = None) -> None:
        """Until nothing is open, or `most` trials have ended."""
        ended = 0
        while most is None or ended < most:
            waiting = self.open()
            if not waiting:
                return
            batch = self.random.sample(waiting, min(self.slots, len(waiting))) if self.slots > 1 else waiting[:1]
            limits = dict(self.limits)  # what runs side by side does not hear of each other
            for planned in batch:
                self._run_trial(planned, limits.get(planned.trial.trial_id))
                ended += 1

    def asked(self) -> list[str]:
        """Labels of everything planned, in order."""
        return [planned.trial.label for planned in self.planned()]

    def _run_trial(self, planned: PlannedTrial, limit: float | None) -> None:
        settings, trial = planned.trial.arm.settings, planned.trial
        folder = self.study.trial_path(planned)
        before = read_trial(folder).evaluations
        attempt = Attempt.claim(folder)
        attempt.start(before[-1]["step"] if before else 0)
        metrics = [row["validation"]["averaged"]["accuracy"] for row in before]
        outcome, examples = None, 0
        while outcome is None:
            step = settings.evaluation_step(len(metrics))
            examples = step * settings.total_batch_size
            metrics.append(self.curve(trial, examples))
            attempt.write({**evaluation(step, examples, metrics[-1]), **_position(settings, step)})
            is_over = examples >= settings.budget_examples
            if (is_over or settings.stop_at_target) and settings.target.crossing(metrics).confirmed is not None:
                outcome = Outcome.REACHED
            elif is_over:
                outcome = Outcome.CENSORED
            elif limit is not None and examples >= limit and not settings.target.reached(metrics[-1]):
                outcome = Outcome.DOMINATED
        attempt.finish({"outcome": str(outcome), "examples": examples, "test": {}})
        attempt.close()


def run_in_pieces(study: StudyFolder, curve: Curve, pieces: int, **how: int) -> Simulation:
    """Run a study by drivers that each end after `pieces` trials and leave the next one the folder alone."""
    while True:
        driver = Simulation(study, curve, **how)
        driver.run(most=pieces)
        if not driver.open():
            return driver


def table(findings: Findings, name: str) -> list[dict[str, Any]]:
    """The rows of a section's table."""
    found = next(t for section in findings.sections for t in section.tables if t.name == name)
    return [dict(zip(found.columns, row, strict=True)) for row in found.rows]


def _position(settings: Settings, step: int) -> dict[str, float]:
    """LR and momentum of the last update, as the schedule has them."""
    schedule = instantiate(settings.schedule)
    momentum = schedule.momentum(step - 1)
    lr = settings.peak_lr * schedule.lr_factor(step - 1)
    return {"lr": lr, "momentum": settings.optimizer.get("momentum", 0.0) if momentum is None else momentum}
