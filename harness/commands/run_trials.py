"""Runs what a study still asks for: which trial is next, who hears of it, and where it runs."""

from collections.abc import Sequence
from dataclasses import replace

from harness.commands.study_progress import StudyProgress
from harness.launch.costs import Costs
from harness.launch.drain import Drain
from harness.launch.driver import run_study
from harness.launch.feed import Claim, Feed
from harness.launch.listener import Audience
from harness.launch.tasks import Cluster
from harness.plan.trial import PlannedTrial
from harness.record.claims import Claims
from harness.record.drain_flag import NAME as DRAIN_FLAG
from harness.record.journal import newest_rows
from harness.record.limit import write_limit
from harness.record.study import Study
from harness.record.terminal import Screen
from harness.record.tracking.sink import WandbSink


def run_trials(progress: StudyProgress, study: Study, screen: Screen, sink: WandbSink, drain: Drain) -> Feed:
    """Run the study's unfinished trials, then its timing pass; the feed tells what is left."""
    audience = Audience(screen, sink) if study.leads else Audience(screen)
    feed = _feed(progress, study, audience)
    run_study(study, feed, _drainable(progress.cluster, study), audience, progress.config.specs, drain)
    return feed


def _feed(progress: StudyProgress, study: Study, audience: Audience) -> Feed:
    def plan() -> Sequence[PlannedTrial]:
        planned = progress.plan()
        if study.leads:
            study.add_plan(planned)
        return planned

    feed = Feed(
        plan,
        progress.is_finished,
        progress.limits,
        lambda planned, limit: write_limit(study.trial_path(planned), limit),
        claim=_claim(study) if progress.config.cluster.share_study else None,
        waits_for_others=study.leads,
        costs=Costs(lambda planned: progress.folder.record(planned).record),
    )
    if study.leads:
        # What helpers ran: whole trials, from their journals, and only those that end from here on.
        feed.ended_elsewhere = lambda planned: audience.trial_rows(planned, newest_rows(study.trial_path(planned)))
    return feed


def _claim(study: Study) -> Claim:
    claims = Claims(study.path, study.lease)
    return lambda planned: claims.take(planned.key)


def _drainable(cluster: Cluster, study: Study) -> Cluster:
    """The same, with trials that look at the study's drain flag."""
    flag = str(study.lease.folder / DRAIN_FLAG)
    return replace(cluster, execution=replace(cluster.execution, drain_file=flag, study_attempt=study.lease.number))
