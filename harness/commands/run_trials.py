"""Runs what a study still asks for: which trial is next, who is informed, and where it runs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.commands.study_progress import StudyProgress
from harness.launch.drain import Drain
from harness.launch.driver import run_study
from harness.launch.feed import Feed
from harness.launch.listener import Audience
from harness.launch.tasks import Cluster
from harness.plan.trial import PlannedTrial
from harness.record.claims import Claims
from harness.record.drain_flag import NAME as DRAIN_FLAG
from harness.record.journal import begin_again, newest_rows
from harness.record.limit import write_limit
from harness.record.study import Study
from harness.record.terminal import Screen
from harness.record.tracking.sink import WandbSink


def run_trials(progress: StudyProgress, study: Study, screen: Screen, sink: WandbSink, drain: Drain) -> Feed:
    """Run the study's unfinished trials, then its timing pass; the feed tells what is left."""
    audience = Audience(screen, sink) if study.leads else Audience(screen)
    feed = Feed(StudyTrials(progress, study, audience))
    run_study(study, feed, _drainable(progress.cluster, study), audience, progress.config.specs, drain)
    return feed


class StudyTrials:
    """The trials of a study on disk, as its driver or a helper sees them: a TrialSource."""

    def __init__(self, progress: StudyProgress, study: Study, audience: Audience) -> None:
        self.progress = progress
        self.study = study
        self.audience = audience
        self.is_shared = progress.config.cluster.share_study
        self.waits_for_others = study.leads
        self._claims = Claims(study.path, study.lease)
        self._begun_again: set[str] = set()  # damaged trials, by key

    def plan(self) -> Sequence[PlannedTrial]:
        planned = self.progress.plan()
        if self.study.leads:
            self.study.add_plan(planned)
            for trial in planned:
                self._begin_again(trial)
        return planned

    def _begin_again(self, planned: PlannedTrial) -> None:
        """Make way for a damaged trial to run from its beginning, once: it must not resume from what it left."""
        damage = self.progress.records.damage_of(planned)
        if damage is None or planned.key in self._begun_again:
            return
        self._begun_again.add(planned.key)
        self.audience.say(f"{planned.trial.label} is damaged and runs again: trials/{planned.key}, {damage}")
        begin_again(self.study.trial_path(planned))

    def is_finished(self, planned: PlannedTrial) -> bool:
        return self.progress.is_finished(planned)

    def limits(self) -> Mapping[str, float]:
        return self.progress.limits()

    def set_limit(self, planned: PlannedTrial, examples: float) -> None:
        write_limit(self.study.trial_path(planned), examples)

    def claim(self, planned: PlannedTrial) -> bool:
        return self._claims.take(planned.key)

    def ended_elsewhere(self, planned: PlannedTrial) -> None:
        """The driver that leads reports what helpers ran: whole trials, from their journals."""
        if self.study.leads:
            self.audience.trial_rows(planned, newest_rows(self.study.trial_path(planned)))

    def record(self, planned: PlannedTrial) -> Mapping[str, Any]:
        return self.progress.folder.record(planned).record


def _drainable(cluster: Cluster, study: Study) -> Cluster:
    """The same, with trials that look at the study's drain flag."""
    flag = str(study.lease.folder / DRAIN_FLAG)
    return replace(cluster, execution=replace(cluster.execution, drain_file=flag, study_attempt=study.lease.number))
