"""One session of a study: from a configuration to results."""

import time

from rich.console import Console

from harness.analyse.experiment import as_experiment, concluded
from harness.analyse.results import Records
from harness.commands.checks import (
    check_folder,
    check_gpus,
    check_slurm_job,
    check_study,
    constant_of,
    load_question,
)
from harness.commands.devices import of_this_machine, settle_devices
from harness.commands.entry import make_console
from harness.commands.measurement import Measurement, run_measurement
from harness.commands.memory_lines import memory_lines
from harness.commands.micro_batch import settle_micro_batch
from harness.commands.open_study import described, open_study
from harness.commands.run_trials import run_trials
from harness.commands.step_time import StepTime
from harness.commands.study_progress import StudyProgress
from harness.config.configuration import Configuration
from harness.launch.drain import Drain
from harness.plan.exit_codes import ExitCode
from harness.record.study import Study
from harness.record.terminal import Screen
from harness.record.tracking.sink import WandbSink
from harness.report.plan_table import print_plan
from harness.report.wandb_report import report_document
from harness.train.checkpoint import remove_checkpoints


def run(config: Configuration, drain: Drain, take_over: bool = False) -> int:
    """Plan, run, conclude and report one study; returns the exit code. Raises UserError before anything starts."""
    console = make_console()
    check_slurm_job(config)
    splits, design, question = load_question(config)
    if isinstance(question, Measurement):
        cluster = of_this_machine(config.cluster).cluster
        check_gpus(cluster, world_size=1)
        check_folder(config.folder)
        if not isinstance(question, StepTime) or config.dry_run:
            return run_measurement(question, config, cluster, console)
        study = Study.open(
            config.folder, described(config, design, cluster, splits), config.allow_mixed_code, take_over
        )
        try:
            study.add_plan([])  # it has no trials
            return run_measurement(question, config, cluster, console)
        finally:
            study.close()
    devices = settle_devices(config)
    cluster = devices.cluster
    progress = settle_micro_batch(StudyProgress(config, cluster, design, as_experiment(question)), console)
    planned, unfinished = check_study(progress, splits, devices.nodes)
    if config.dry_run:
        constant = constant_of(planned[0], splits, cluster.execution) if splits.is_loaded else None
        print_plan(console, planned, progress.design, progress.folder, progress.follows, constant)
        for line in (f"devices       {devices.line}", *devices.hints, *memory_lines(planned)):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        if not splits.is_loaded:
            line = (
                f"not loaded    {config.dataset['_target_']}: its sizes are as declared; its files, and whether the "
                "model fits its examples, are not checked"
            )
            for text in (line, *([f"data          {splits.missing}"] if splits.missing else [])):
                console.print(text, markup=False, highlight=False, soft_wrap=True)
        return ExitCode.DONE

    screen = Screen(console)
    sink = WandbSink.prepare(config.tracking, screen.say)  # online without a key or a server is refused here
    study = open_study(progress, splits, take_over)
    try:
        screen.say(f"study {study.path}")
        if unfinished:
            for hint in devices.hints:
                screen.say(hint)
        if study.lease.taken_from:
            screen.say(f"taken over from {study.lease.taken_from}")
        if unfinished and study.leads:
            sink.open(study.path)
        began = time.monotonic()
        feed = run_trials(progress, study, screen, sink, drain)
        screen.close()
        if drain.requested or not study.leads or not feed.is_over:
            return _leave(study, screen, drain)
        whole = _conclude(progress, study, console, sink, began)
        for label, reason in screen.failed:
            screen.say(f"failed: {label}: {reason}")
        return ExitCode.DONE if whole and not screen.failed else ExitCode.FAILED
    finally:
        screen.close()
        sink.close()
        study.close()


def _leave(study: Study, screen: Screen, drain: Drain) -> int:
    """End without a report: another driver writes it, or a later start of the study."""
    if not study.leads and not drain.requested:
        screen.say("no trial is left for this driver: the one that leads the study writes the report")
        return ExitCode.FAILED if screen.failed else ExitCode.DONE
    screen.say("stopped early: run the same command again to resume")
    return drain.exit_code if drain.requested else ExitCode.PREEMPTED  # lost nodes: the sweep no longer fits


def _conclude(progress: StudyProgress, study: Study, console: Console, sink: WandbSink, began: float) -> bool:
    """Report on a study whose trials have all ended; False if a section of the report failed or a trial is damaged."""
    for planned in progress.stopped():  # a longer search that asks for one of them after all starts it again
        remove_checkpoints(study.trial_path(planned) / "checkpoint")
    from harness.report.write import write_reports  # with it comes matplotlib, which planning does not wait for

    findings = concluded(progress.experiment, progress.design, Records(progress.folder))
    whole = write_reports(console, progress.folder.path, findings, time.monotonic() - began)
    sink.close(report_document(findings, progress.design.workload.target.metric))
    return whole and not findings.damage
