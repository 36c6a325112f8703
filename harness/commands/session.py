"""One session of a study: from a composed configuration to results."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console

from harness.analyse.results import Records
from harness.commands.checks import check_cluster_size, check_schedules, load_data
from harness.commands.doctor import Doctor
from harness.commands.entry import make_console
from harness.commands.study_progress import StudyProgress
from harness.config.build import (
    AUTO,
    Options,
    Sequential,
    build_design,
    build_experiment,
    build_workload,
    options,
)
from harness.datasets.examples import Splits
from harness.launch.costs import Costs
from harness.launch.drain import Drain
from harness.launch.driver import run_study
from harness.launch.feed import Claim, Feed
from harness.launch.listener import Audience
from harness.launch.micro_batch import find_cap
from harness.launch.tasks import Cluster
from harness.plan.design import Design
from harness.plan.errors import UserError
from harness.plan.exit_codes import ExitCode
from harness.plan.trial import PlannedTrial
from harness.record.claims import Claims
from harness.record.drain_flag import NAME as DRAIN_FLAG
from harness.record.examination import find_examination
from harness.record.journal import newest_rows
from harness.record.limit import write_limit
from harness.record.provenance import code_fingerprint, cpu_model, git_state, usable_cpus, versions
from harness.record.study import Study, StudyFolder
from harness.record.terminal import Screen
from harness.record.tracking.sink import WandbSink
from harness.report.plan_table import print_plan
from harness.report.wandb_report import report_document
from harness.train.checkpoint import remove_checkpoints
from harness.train.rehearsal import rehearse
from harness.train.trainer import Execution


def run(config: Mapping[str, Any], drain: Drain) -> int:
    """Plan, run, conclude and report one study; returns the exit code. Raises UserError before anything starts.

    `config` as `harness.config.arguments.command_line` hands it out: composed, its values checked.
    """
    console = make_console()
    opts = options(config)
    if config["cluster"]["slurm"] is not None and not opts.dry_run and "SLURM_JOB_ID" not in os.environ:
        raise UserError(
            "cluster=slurm outside a Slurm job would run on this machine alone: submit the same words with "
            "`harness submit`, or use cluster=local here"
        )
    cluster = build_cluster(config["cluster"])
    splits = load_data(config)
    design = build_design(config, build_workload(config, len(splits.train)))
    experiment = build_experiment(config, design)
    if isinstance(experiment, Doctor):
        where = (cluster.device, config["cluster"]["precision"], cluster.cpus_per_worker)
        if opts.dry_run:
            experiment.announce(console, *where[:2])
            return 0
        return experiment.run(console, opts.folder, _workload_code(config), *where)
    folder = StudyFolder(opts.folder)
    progress = StudyProgress(experiment, folder, design, cluster, config["cluster"]["precision"])
    if config["cluster"]["per_device_batch_size"] == AUTO:
        cap = _micro_batch_cap(console, progress, folder, cluster, opts.dry_run)
        config = {**config, "cluster": {**config["cluster"], "per_device_batch_size": cap}}
        opts, design = options(config), build_design(config, build_workload(config, len(splits.train)))
        experiment = build_experiment(config, design)
        progress = StudyProgress(experiment, folder, design, cluster, config["cluster"]["precision"])
    planned = progress.plan()
    check_schedules(planned)
    rehearse(planned, splits, cluster.execution)
    unfinished = [p for p in planned if not progress.is_finished(p)]
    if unfinished:  # a finished study is reported anywhere
        check_cluster_size(cluster, {p.topology.batch.world_size for p in unfinished})
    if opts.dry_run:
        print_plan(console, planned, design, folder, experiment.follows if isinstance(experiment, Sequential) else None)
        return 0

    screen = Screen(console)
    sink = WandbSink.prepare(opts.tracking, screen.say)  # online without a key or a server is refused here
    study = _open(opts, _description(opts, design, cluster, splits), config["cluster"]["share_study"])
    try:

        def plan() -> Sequence[PlannedTrial]:
            planned = progress.plan()
            if study.leads:
                study.add_plan(planned)
            return planned

        screen.say(f"study {opts.folder}")
        if unfinished and study.leads:
            sink.open(study.path)
        timing = (config["cluster"]["timing_min_steps"], config["cluster"]["timing_min_s"])
        began = time.monotonic()
        feed = Feed(
            plan,
            progress.is_finished,
            progress.limits,
            lambda planned, limit: write_limit(study.trial_path(planned), limit),
            claim=_claim(study) if config["cluster"]["share_study"] else None,
            waits_for_others=study.leads,
            costs=Costs(lambda planned: folder.record(planned).record),
        )
        audience = Audience(screen, sink) if study.leads else Audience(screen)
        if study.leads:
            # What helpers ran: whole trials, from their journals, and only those that ended from here on.
            feed.ended_elsewhere = lambda one: audience.trial_rows(one, newest_rows(study.trial_path(one)))
        run_study(study, feed, _drainable(cluster, study), audience, timing, drain)
        screen.close()
        if not study.leads and not drain.requested:
            screen.say("nothing is left for this driver: the one that leads the study reports")
            return ExitCode.FAILED if screen.failed else ExitCode.DONE
        if drain.requested or not feed.is_over:
            screen.say("stopped early: the same command goes on from here")
            return drain.exit_code if drain.requested else ExitCode.PREEMPTED  # no room any more
        for planned in progress.stopped():  # a longer search that asks for one of them after all begins it afresh
            remove_checkpoints(study.trial_path(planned) / "checkpoint")
        from harness.report.write import write_reports  # with it comes matplotlib, which planning does not wait for

        findings = experiment.conclude(Records(folder))
        write_reports(console, folder, findings, time.monotonic() - began)
        sink.close(report_document(findings, design.workload.target.metric))
        for label, reason in screen.failed:
            screen.say(f"failed: {label}: {reason}")
        return ExitCode.FAILED if screen.failed else ExitCode.DONE
    finally:
        screen.close()
        sink.close()
        study.close()


def _open(opts: Options, description: Mapping[str, Any], shares: bool) -> Study:
    """The study to lead; or to help with, where it is shared and another driver leads it."""
    try:
        return Study.open(opts.folder, description, opts.allow_mixed_code)
    except UserError:
        if not shares or not StudyFolder(opts.folder).is_being_run:
            raise
        return Study.join(opts.folder, description, opts.allow_mixed_code)


def _claim(study: Study) -> Claim:
    claims = Claims(study.path, study.lease)
    return lambda planned: claims.take(planned.key)


def _micro_batch_cap(
    console: Console, progress: StudyProgress, folder: StudyFolder, cluster: Cluster, dry_run: bool
) -> int | None:
    """What per_device_batch_size=auto comes to: found once, then kept in study.json as if it had been given."""
    if folder.exists:
        return folder.description()["config"]["cluster"]["per_device_batch_size"]
    if cluster.device == "cpu":
        return None
    if dry_run:
        console.print("per_device_batch_size=auto is found when the study starts; shown here without accumulation")
        return None
    cap = find_cap(progress.plan(), cluster)
    console.print(f"per_device_batch_size=auto: micro-batches of up to {cap} examples fit on a worker", highlight=False)
    return cap


def build_cluster(part: Mapping[str, Any]) -> Cluster:
    """The cluster of a configuration; a missing GPU count means one per worker where this machine has any."""
    gpus = part["gpus_per_worker"]
    if gpus is None:
        import torch

        gpus = 1.0 if torch.cuda.is_available() else 0.0
    return Cluster(
        launcher=part["launcher"],
        address=part["address"],
        cpus=part["cpus"],
        cpus_per_worker=part["cpus_per_worker"],
        gpus_per_worker=gpus,
        max_failures=part["max_failures"],
        report_every_s=part["report_every_s"],
        grace_s=part["grace_s"],
        node_wait_s=part["node_wait_s"],
        execution=Execution(
            part["evaluation_batch_size"],
            part["checkpoint_every_s"],
            compile=part["compile"],
            channels_last=part["channels_last"],
            gradient_compression=part["gradient_compression"],
            activation_checkpointing=part["activation_checkpointing"],
            hang_s=part["hang_s"],
        ),
    )


def _drainable(cluster: Cluster, study: Study) -> Cluster:
    """The same, with trials that look at the study's drain flag."""
    flag = {"drain_file": str(study.lease.folder / DRAIN_FLAG), "study_attempt": study.lease.number}
    return replace(cluster, execution=replace(cluster.execution, **flag))


def _description(opts: Options, design: Design, cluster: Cluster, splits: Splits) -> dict[str, Any]:
    """What study.json says besides its sessions."""
    raw, examined = opts.raw, find_examination(opts.folder.parents[1], design.workload, _workload_code(opts.raw))
    specs = [raw["dataset"], raw["model"], raw["optimizer"], raw["schedule"], raw["question"]]
    return {
        "experiment": opts.experiment_name,
        "name": opts.folder.name,
        "config": raw,
        "train_examples": len(splits.train),
        "code_fingerprint": code_fingerprint(specs),
        "data_fingerprint": splits.fingerprint,
        "git": git_state(),
        "versions": versions(),
        "hardware": {"cpu": cpu_model(), "cpus": usable_cpus(), "device": cluster.device},
        "doctor": examined,
        "overrides": raw.get("overrides", []),
    }


def _workload_code(config: Mapping[str, Any]) -> str:
    """Fingerprint of the code that the doctor runs, whatever the question."""
    return code_fingerprint(config[part] for part in ("dataset", "model", "optimizer", "schedule"))
