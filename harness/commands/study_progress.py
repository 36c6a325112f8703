"""An experiment beside its records: what it asks for by now, and what of that is finished."""

from collections.abc import Mapping

from harness.analyse.results import Records
from harness.config.build import Experiment, Racing
from harness.launch.tasks import Cluster
from harness.plan.design import Design
from harness.plan.trial import PlannedTrial, Topology, Trial
from harness.record.study import StudyFolder


class StudyProgress:
    """An experiment beside its records: what it asks for by now, and what of that has been answered."""

    def __init__(
        self, experiment: Experiment, folder: StudyFolder, design: Design, cluster: Cluster, precision: str
    ) -> None:
        self.experiment = experiment
        self.records = Records(folder)
        self._placement = design.workload.placement
        self._device, self._precision = cluster.device, precision
        self._limits: Mapping[str, float] = {}

    def plan(self) -> list[PlannedTrial]:
        """Every trial asked for so far, each with its topology."""
        planned = [self._placed(trial) for trial in self.experiment.trials(self.records)]
        self.records.add(planned)
        self.limits()
        return planned

    def limits(self) -> Mapping[str, float]:
        """Where trials that race stop by now; see `Racing`."""
        self._limits = self.experiment.limits(self.records) if isinstance(self.experiment, Racing) else {}
        return self._limits

    def is_finished(self, planned: PlannedTrial) -> bool:
        """As of the last look at the limits."""
        return self.records.is_finished(planned, self._limits.get(planned.trial.trial_id))

    def stopped(self) -> list[PlannedTrial]:
        """Trials that lost their race and are not asked to go on."""
        return [p for p in self.plan() if self.is_finished(p) and self.records.is_stopped(p)]

    def _placed(self, trial: Trial) -> PlannedTrial:
        settings = trial.arm.settings  # an arm may have a batch-norm span of its own
        batch = self._placement.plan(settings.total_batch_size, settings.batch_norm.group_examples)
        return PlannedTrial(trial, Topology(batch, self._device, self._precision))
