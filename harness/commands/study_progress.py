"""A study as a session sees it: its experiment, what that asks for by now, and what of it is finished."""

from collections.abc import Iterable, Mapping
from typing import Any

from harness.analyse.experiment import Experiment, Racing, Sequential
from harness.analyse.results import Records
from harness.config.configuration import Configuration
from harness.launch.tasks import Cluster
from harness.plan.design import Design
from harness.plan.errors import UserError
from harness.plan.imports import user_code
from harness.plan.trial import PlannedTrial, Topology, Trial
from harness.record.study import StudyFolder


def planned_trials(experiment: Experiment, records: Records) -> list[Trial]:
    """What the experiment asks for; UserError if its class fails or gives anything but trials."""
    name = f"question {type(experiment).__name__}"
    with user_code(f"{name} fails to plan its trials"):
        trials: Any = experiment.trials(records)
        trials = list(trials) if isinstance(trials, Iterable) else trials
    if not isinstance(trials, list):
        raise UserError(f"{name}: trials(records) must return a list of Trial, not {type(trials).__name__}")
    if wrong := [trial for trial in trials if not isinstance(trial, Trial)]:
        raise UserError(f"{name}: trials(records) must return a list of Trial, not one with {wrong[0]!r}")
    if not trials:
        raise UserError(f"{name} plans no trials: there is nothing to run")
    return trials


class StudyProgress:
    """An experiment with its records: what it asks for by now, and what of that has been answered."""

    def __init__(self, config: Configuration, cluster: Cluster, design: Design, experiment: Experiment) -> None:
        self.config = config
        self.cluster = cluster
        self.design = design
        self.experiment = experiment
        self.folder = StudyFolder(config.folder)
        self.records = Records(self.folder)
        self._limits: Mapping[str, float] = {}

    def plan(self) -> list[PlannedTrial]:
        """Every trial asked for so far, each with its topology."""
        planned = [self._placed(trial) for trial in planned_trials(self.experiment, self.records)]
        self.records.add(planned)
        self.limits()
        return planned

    @property
    def follows(self) -> str | None:
        """What the first round may lead to; None where there is one round only."""
        return self.experiment.follows if isinstance(self.experiment, Sequential) else None

    def limits(self) -> Mapping[str, float]:
        """Where trials that race stop by now; see `Racing`."""
        self._limits = self.experiment.limits(self.records) if isinstance(self.experiment, Racing) else {}
        return self._limits

    def is_finished(self, planned: PlannedTrial) -> bool:
        """As of the last look at the limits."""
        return self.records.is_finished(planned, self._limits.get(planned.trial.trial_id))

    def stopped(self) -> list[PlannedTrial]:
        """Trials that lost their race and are not asked to continue."""
        return [p for p in self.plan() if self.is_finished(p) and self.records.is_stopped(p)]

    def _placed(self, trial: Trial) -> PlannedTrial:
        settings = trial.arm.settings  # an arm may have a batch-norm span of its own
        placement = self.design.workload.placement
        batch = placement.plan(settings.total_batch_size, settings.batch_norm.group_examples)
        cluster = self.cluster
        return PlannedTrial(trial, Topology(batch, cluster.device, cluster.precision, cluster.sharding))
