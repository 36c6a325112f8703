"""One invocation from a composed configuration to results: what python -m harness does once the words are right."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console

from harness.analyse.results import Records
from harness.config.build import (
    AUTO,
    Experiment,
    Options,
    Racing,
    Sequential,
    build_design,
    build_experiment,
    build_workload,
    options,
)
from harness.datasets.examples import Splits
from harness.doctor import Doctor
from harness.launch.capacity import fit
from harness.launch.costs import Costs
from harness.launch.drain import PREEMPTED, Drain
from harness.launch.driver import run_study
from harness.launch.feed import Claim, Feed
from harness.launch.listener import Audience
from harness.launch.micro_batch import find_cap
from harness.launch.ray_cluster import running_nodes
from harness.launch.tasks import Cluster
from harness.plan.design import Design
from harness.plan.errors import UserError, one_line
from harness.plan.trial import PlannedTrial, Topology, Trial
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
from harness.train.instantiate import check_arguments, instantiate
from harness.train.losses import loss_named
from harness.train.rehearsal import rehearse
from harness.train.trainer import Execution

FAILED_TRIALS = 1
LOG_WIDTH = 140


class Inquiry:
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


def run(config: Mapping[str, Any], drain: Drain) -> int:
    """Plan, run, conclude and report one study; returns the exit code. Raises UserError before anything starts.

    `config` as `harness.config.arguments.command_line` hands it out: composed, its values checked.
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=LOG_WIDTH)  # a log has no width of its own, and a table cut to 80 columns is unreadable
    opts = options(config)
    if config["cluster"]["slurm"] is not None and not opts.dry_run and "SLURM_JOB_ID" not in os.environ:
        raise UserError(
            "cluster=slurm outside a Slurm job would run on this machine alone: submit the same words with "
            "`python -m harness.submit`, or use cluster=local here"
        )
    cluster = build_cluster(config["cluster"])
    splits = _load_data(config)
    design = build_design(config, build_workload(config, len(splits.train)))
    experiment = build_experiment(config, design)
    if isinstance(experiment, Doctor):
        where = (cluster.device, config["cluster"]["precision"], cluster.cpus_per_worker)
        if opts.dry_run:
            experiment.announce(console, *where[:2])
            return 0
        return experiment.run(console, opts.folder, _workload_code(config), *where)
    folder = StudyFolder(opts.folder)
    inquiry = Inquiry(experiment, folder, design, cluster, config["cluster"]["precision"])
    if config["cluster"]["per_device_batch_size"] == AUTO:
        cap = _micro_batch_cap(console, inquiry, folder, cluster, opts.dry_run)
        config = {**config, "cluster": {**config["cluster"], "per_device_batch_size": cap}}
        opts, design = options(config), build_design(config, build_workload(config, len(splits.train)))
        experiment = build_experiment(config, design)
        inquiry = Inquiry(experiment, folder, design, cluster, config["cluster"]["precision"])
    planned = inquiry.plan()
    _check_schedules(planned)
    rehearse(planned, splits, cluster.execution)
    unfinished = [p for p in planned if not inquiry.is_finished(p)]
    if unfinished:  # a finished study is reported anywhere
        _check_cluster(cluster, {p.topology.batch.world_size for p in unfinished})
    if opts.dry_run:
        print_plan(console, planned, design, folder, experiment.follows if isinstance(experiment, Sequential) else None)
        return 0

    screen = Screen(console)
    sink = WandbSink.prepare(opts.tracking, screen.say)  # online without a key or a server is refused here
    study = _open(opts, _description(opts, design, cluster, splits), config["cluster"]["share_study"])
    try:

        def plan() -> Sequence[PlannedTrial]:
            planned = inquiry.plan()
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
            inquiry.is_finished,
            inquiry.limits,
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
            return FAILED_TRIALS if screen.failed else 0
        if drain.requested or not feed.is_over:
            screen.say("stopped early: the same command goes on from here")
            return drain.exit_code if drain.requested else PREEMPTED  # no room any more
        for planned in inquiry.stopped():  # a longer search that asks for one of them after all begins it afresh
            remove_checkpoints(study.trial_path(planned) / "checkpoint")
        from harness.report.write import write_reports  # with it comes matplotlib, which planning does not wait for

        findings = experiment.conclude(Records(folder))
        write_reports(console, folder, findings, time.monotonic() - began)
        sink.close(report_document(findings, design.workload.target.metric))
        for label, reason in screen.failed:
            screen.say(f"failed: {label}: {reason}")
        return FAILED_TRIALS if screen.failed else 0
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
    console: Console, inquiry: Inquiry, folder: StudyFolder, cluster: Cluster, dry_run: bool
) -> int | None:
    """What per_device_batch_size=auto comes to: found once, then kept in study.json as if it had been given."""
    if folder.exists:
        return folder.description()["config"]["cluster"]["per_device_batch_size"]
    if cluster.device == "cpu":
        return None
    if dry_run:
        console.print("per_device_batch_size=auto is found when the study starts; shown here without accumulation")
        return None
    cap = find_cap(inquiry.plan(), cluster)
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


def _load_data(config: Mapping[str, Any]) -> Splits:
    """The data set on the driver, for its size and fingerprint; and every `_target_` checked against its signature."""
    check_arguments(config["dataset"])
    check_arguments(config["model"])
    check_arguments(config["optimizer"], [], lr=1.0)
    loss_named(config["workload"]["loss"])
    name = config["dataset"]["_target_"]
    try:
        splits: Splits = instantiate(config["dataset"]).load()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"dataset {name} cannot be loaded: {one_line(error)}") from error
    for split in ("train", "validation", "test"):
        if not len(getattr(splits, split)):
            raise UserError(f"dataset {name} has no {split} examples: every split needs at least one")
    metrics = loss_named(config["workload"]["loss"]).metrics
    for key in ("target", "read_beside"):
        target = config["workload"][key]
        if target and target["metric"] not in metrics:
            raise UserError(
                f"workload.{key}.metric {target['metric']!r} is not measured with loss {config['workload']['loss']}: "
                f"use one of {', '.join(metrics)}"
            )
    return splits


def _check_schedules(planned: Sequence[PlannedTrial]) -> None:
    """Construct every arm's schedule once: what its constructor refuses is refused before anything starts."""
    for settings in {p.trial.arm.label: p.trial.arm.settings for p in planned}.values():
        check_arguments(settings.schedule)
        instantiate(settings.schedule)
        mode = settings.schedule.get("mode")
        if mode in ("min", "max") and mode != settings.target.mode:
            raise UserError(
                f"schedule.mode={mode} watches {settings.target.metric}, which improves towards "
                f"{settings.target.mode}: use schedule.mode={settings.target.mode}"
            )


def _check_cluster(cluster: Cluster, world_sizes: set[int]) -> None:
    """Whether the cluster answers and is large enough, before the study folder exists."""
    if cluster.launcher == "ray" and cluster.address == "local":
        import torch

        gpus = torch.cuda.device_count() if cluster.gpus_per_worker else 0
        fit(cluster, world_sizes, [(float(cluster.cpus or usable_cpus()), float(gpus))])
    elif cluster.launcher == "ray":
        fit(cluster, world_sizes, running_nodes(cluster.address))


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
