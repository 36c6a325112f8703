"""From a study's files to results per trial and per arm; every renderer and experiment reads these."""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.analyse.crossing import Crossing, locate, metric_at, score_at
from harness.analyse.evaluations import Evaluations, column
from harness.plan.outcome import Outcome
from harness.plan.racing import Standing
from harness.plan.settings import Settings, fingerprint
from harness.plan.target import Target
from harness.plan.trial import Arm, PlannedTrial, Topology, Trial
from harness.record.journal import TrialRecord, attempt_numbers
from harness.record.study import StudyFolder
from harness.statistics.estimates import Observation


@dataclass(frozen=True)
class TrialResult:
    """One finished trial: what happened and where it crossed the target it was run for."""

    trial: Trial
    topology: Topology
    outcome: Outcome
    evaluations: Sequence[Mapping[str, Any]]
    record: Mapping[str, Any]
    target: Target  # the one it is read for; the one it was run for unless a report asks for another
    crossing: Crossing
    hardware: tuple[str, ...] = ()  # of its own clocks; empty where an older version did not say

    @property
    def settings(self) -> Any:
        return self.trial.arm.settings

    @property
    def examples(self) -> int:
        """Examples seen when the trial ended."""
        return int(column(self.evaluations, "examples")[-1]) if self.evaluations else 0

    def observation(self, target: Target | None = None, weights: str | None = None) -> Observation:
        """The crossing of a target (default: the one it is read for) in examples, as the estimators take it.

        A trial that failed is no data whatever it reached before: it is run again (P15).
        """
        crossing = self.crossing
        if not self.outcome.is_data:
            return Observation(self.outcome, float("inf"), float(self.examples))
        if target is not None:
            crossing = locate(self.evaluations, target, weights or self.settings.averaging.decide_on)
        if crossing.high is not None and crossing.low is not None:
            return Observation(Outcome.REACHED, float(crossing.high), float(crossing.low))
        # Another target than the one run for: the record ends where the trial stopped, whatever stopped it.
        outcome = Outcome.CENSORED if self.outcome is Outcome.REACHED else self.outcome
        stop = self.examples if crossing.pending is None else crossing.pending
        return Observation(outcome, float("inf"), float(stop))

    def measures(self, metric: str) -> bool:
        """Whether the trial's evaluations have the metric, as far as they have any."""
        return _measures(self.evaluations, metric)

    def final_metric(self, metric: str | None = None) -> float | None:
        """A metric (default: the target's) at the last evaluation, on the deciding weights."""
        if not self.evaluations:
            return None
        return score_at(self.evaluations[-1], metric or self.target.metric, self.settings.averaging.decide_on)

    def test_metric(self, metric: str | None = None) -> float | None:
        """A metric (default: the target's) on the test split, read once at the end of the trial."""
        return self.record.get("test", {}).get(metric or self.target.metric)

    def packed_seconds(self) -> float | None:
        """Training seconds on the trial's own clock at the crossing; the machine may have been shared."""
        row = self.crossing.row
        return None if row is None else self.evaluations[row]["clock"]["train_s"]

    def packed_step_seconds(self) -> float | None:
        """Training seconds per update on the trial's own clock, over all that it trained."""
        if not self.evaluations:
            return None
        last = self.evaluations[-1]
        return last["clock"]["train_s"] / last["step"]


class Records:
    """The finished trials of a study, by trial; what an experiment plans and concludes from.

    `target` and `budget_examples` ask a finished study something else than it was run for, without new trials: every
    journal is read as if its trial had been run for that target, and had ended at that budget.
    """

    def __init__(self, folder: StudyFolder, target: Target | None = None, budget_examples: int | None = None) -> None:
        self.folder = folder
        self.target = target
        self.budget_examples = budget_examples
        self._planned: dict[str, list[PlannedTrial]] = {}
        self._cache: dict[str, TrialRecord] = {}
        self.add(folder.plan())

    def read_for(self, target: Target | None, budget_examples: int | None = None) -> "Records":
        """The same records, asked something else; what was read of them is kept."""
        self.target, self.budget_examples = target, budget_examples
        return self

    def add(self, planned: Iterable[PlannedTrial]) -> None:
        """Know of these trials too: what a search has planned since."""
        for one in planned:
            known = self._planned.setdefault(one.trial.trial_id, [])
            if one.key not in [other.key for other in known]:
                known.append(one)

    def of(self, trial: Trial) -> TrialResult | None:
        """The trial's result on the first topology that finished it; replicas elsewhere are kept but not mixed in."""
        for planned in self._planned.get(trial.trial_id, []):
            record = self._read(planned)
            if record.outcome is not None and self._answers(record):
                return self._result(trial, planned, record)
        return None

    def _answers(self, record: TrialRecord) -> bool:
        """Whether the trial measured what it is read for; the metric that it was run for is always measured."""
        return self.target is None or _measures(record.evaluations, self.target.metric)

    def unmeasured(self, metric: str) -> int:
        """Finished trials without a metric: it was not listed when they ran."""
        records = (self._read(planned) for trial in self._planned.values() for planned in trial)
        return sum(record.is_finished and not _measures(record.evaluations, metric) for record in records)

    def metrics(self) -> list[str]:
        """Every metric that some finished trial measured, in the order of the journals."""
        records = (self._read(planned) for trial in self._planned.values() for planned in trial)
        return list(dict.fromkeys(name for record in records if record.is_finished for name in _measured(record)))

    def of_arm(self, arm: Arm, seeds: Iterable[int]) -> list[TrialResult]:
        """Finished trials of an arm, in the order of `seeds`."""
        found = (self.of(Trial(arm, seed)) for seed in seeds)
        return [result for result in found if result is not None]

    def is_finished(self, planned: PlannedTrial, limit: float | None = None) -> bool:
        """Whether a trial's result is there; one that was stopped counts only where it races and was past `limit`."""
        record = self._read(planned)
        if record.outcome is Outcome.DOMINATED:
            return limit is not None and record.record["examples"] >= limit
        return record.is_finished

    def is_stopped(self, planned: PlannedTrial) -> bool:
        """Whether a trial was stopped because it could no longer win."""
        return self._read(planned).outcome is Outcome.DOMINATED

    def standing(self, trial: Trial) -> Standing:
        """What is known of where a trial crosses the target it runs for, finished or not."""
        best, settings = Standing(), trial.arm.settings
        for planned in self._planned.get(trial.trial_id, []):
            record = self._read(planned)
            if record.is_finished and record.outcome is not Outcome.DOMINATED:
                high = locate(record.evaluations, settings.target, settings.averaging.decide_on).high
                return Standing(math.inf if high is None else float(high))
            missed = _last_miss(record.evaluations, settings)
            best = Standing(None, max(best.beyond, missed))
        return best

    def examples(self, trial: Trial) -> int:
        """Examples a trial has seen by its last evaluation, finished or not; 0 before it has begun."""
        rows = (self._read(planned).evaluations for planned in self._planned.get(trial.trial_id, []))
        return max((int(found[-1]["examples"]) for found in rows if found), default=0)

    def damage(self) -> list[str]:
        """A line on each damaged file or trial: no number counts it, and the next sweep runs the trial again (P28)."""
        trials = [(planned, self.damage_of(planned)) for trial in self._planned.values() for planned in trial]
        return [
            *self.folder.damage(),
            *(f"{p.trial.label}, trials/{p.key}: {damage}" for p, damage in trials if damage is not None),
        ]

    def damage_of(self, planned: PlannedTrial) -> str | None:
        """Which file of a trial is damaged, or contradicts another."""
        return self._read(planned).damage

    def hardware(self) -> list[str]:
        """What the trials' own clocks were measured on."""
        records = (self._read(planned) for trial in self._planned.values() for planned in trial)
        return sorted({label for record in records for label in record.hardware})

    def replicas(self) -> int:
        """Finished runs of a trial on another topology than the one counted."""
        finished = [sum(self._read(p).is_finished for p in planned) for planned in self._planned.values()]
        return sum(max(0, count - 1) for count in finished)

    def _result(self, trial: Trial, planned: PlannedTrial, record: TrialRecord) -> TrialResult:
        assert record.outcome is not None
        settings, outcome, evaluations = trial.arm.settings, record.outcome, record.evaluations
        target = self.target or settings.target
        if self.budget_examples is not None:
            count = sum(examples <= self.budget_examples for examples in column(evaluations, "examples"))
            if count < len(evaluations):
                evaluations, outcome = evaluations[:count], Outcome.CENSORED if outcome.is_data else outcome
        crossing = locate(evaluations, target, settings.averaging.decide_on)
        if crossing.high is not None and outcome.is_data:
            outcome = Outcome.REACHED
        elif outcome is Outcome.REACHED:
            outcome = Outcome.CENSORED
        end, hardware = record.record, record.hardware
        return TrialResult(trial, planned.topology, outcome, evaluations, end, target, crossing, hardware)

    def _read(self, planned: PlannedTrial) -> TrialRecord:
        path, known = self.folder.trial_path(planned), self._cache.get(planned.key)
        if known is None or not known.is_finished:
            known = self._cache[planned.key] = _compact(self.folder.record(planned))
        elif known.outcome is Outcome.DOMINATED and known.attempts != len(attempt_numbers(path)):
            known = self._cache[planned.key] = _compact(self.folder.record(planned))  # it went on
        return known


def _compact(record: TrialRecord) -> TrialRecord:
    evaluations: Any = Evaluations(record.evaluations)  # reads like the list it stands for, in a tenth of the memory
    return replace(record, evaluations=evaluations)


def _measures(evaluations: Sequence[Mapping[str, Any]], metric: str) -> bool:
    """Of the first and the last evaluation with scores: what is listed may change where a trial resumes."""
    for rows in (evaluations, reversed(evaluations)):
        scores = next((row["validation"] for row in rows if row.get("validation")), {})
        if not all(metric in of_weights for of_weights in scores.values()):
            return False
    return True


def _measured(record: TrialRecord) -> Iterable[str]:
    return (name for row in record.evaluations[:1] for scores in row.get("validation", {}).values() for name in scores)


def observations_by_seed(results: Iterable[TrialResult]) -> dict[int, Observation]:
    """Of one arm, the trials that are data: what `by_seed` pairs with another arm's."""
    return {result.trial.seed: result.observation() for result in results if result.outcome.is_data}


def median(values: Iterable[float | None]) -> float | None:
    """Median of the numbers that are there; None for none."""
    present = [value for value in values if value is not None]
    return statistics.median(present) if present else None


def _last_miss(evaluations: Sequence[Mapping[str, Any]], settings: Settings) -> float:
    """Examples at the last evaluation that missed the target: a trial without a crossing crosses later, if at all."""
    weights, target = settings.averaging.decide_on, settings.target
    missed = (row["examples"] for row in evaluations if not target.reached(metric_at(row, target, weights)))
    return float(max(missed, default=0))


def records_fingerprint(results: Iterable[TrialResult]) -> str:
    """Identifies the data a report was made from."""
    rows = [json.dumps([r.trial.trial_id, r.topology.key, r.outcome, dict(r.record)], sort_keys=True) for r in results]
    return fingerprint(sorted(rows), 16)
