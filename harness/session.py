"""One invocation from a composed configuration to results: what python -m harness does once the words are right."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from harness.analyse.results import Records
from harness.config.build import Experiment, Options, build_design, build_experiment, build_workload, options
from harness.datasets.examples import Splits
from harness.launch.driver import run_study
from harness.launch.tasks import Cluster
from harness.plan.design import Design
from harness.plan.errors import UserError
from harness.plan.trial import PlannedTrial, Topology, Trial
from harness.record.provenance import code_fingerprint, cpu_model, git_state, usable_cpus, versions
from harness.record.study import Study, StudyFolder
from harness.record.terminal import Screen
from harness.report.plan_table import print_plan
from harness.report.write import write_reports
from harness.train.instantiate import check_arguments, instantiate
from harness.train.losses import loss_named
from harness.train.trainer import Execution

INTERRUPTED, FAILED_TRIALS = 130, 1
LOG_WIDTH = 140


def run(config: Mapping[str, Any]) -> int:
    """Plan, run, conclude and report one study; returns the exit code. Raises UserError before anything starts."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=LOG_WIDTH)  # a log has no width of its own, and a table cut to 80 columns is unreadable
    opts = options(config)
    cluster = build_cluster(config["cluster"])
    splits = _load_data(config)
    design = build_design(config, build_workload(config, len(splits.train)))
    experiment = build_experiment(config, design)
    folder = StudyFolder(opts.folder)
    planned = _place(experiment.trials(Records(folder)), design, cluster, config["cluster"]["precision"])
    _check_schedules(planned)
    world_sizes = {p.topology.batch.world_size for p in planned}
    _check_cluster(cluster, world_sizes)
    if opts.dry_run:
        print_plan(console, planned, design, folder)
        return 0

    study = Study.open(opts.folder, _description(opts, design, cluster, splits), opts.allow_mixed_code)
    screen = Screen(console)
    try:

        def plan() -> Sequence[PlannedTrial]:
            trials = experiment.trials(Records(folder))
            placed = _place(trials, design, cluster, config["cluster"]["precision"])
            study.add_plan(placed)
            return placed

        screen.say(f"study {opts.folder}")
        timing = (config["cluster"]["timing_min_steps"], config["cluster"]["timing_min_s"])
        began = time.monotonic()
        feed = run_study(study, plan, cluster, screen, timing)
        screen.close()
        if not feed.is_over:
            screen.say("stopped early: the same command goes on from here")
            return INTERRUPTED
        write_reports(console, folder, experiment.conclude(Records(folder)), time.monotonic() - began)
        for label, reason in screen.failed:
            screen.say(f"failed: {label}: {reason}")
        return FAILED_TRIALS if screen.failed else 0
    finally:
        screen.close()
        study.close()


def build_cluster(part: Mapping[str, Any]) -> Cluster:
    """The cluster of a configuration; a missing GPU count means one per worker where this machine has any."""
    if part["launcher"] not in ("ray", "inline"):
        raise UserError(f"cluster.launcher must be ray or inline, not {part['launcher']!r}")
    for key, least in (
        ("workers_per_trial", 1),
        ("cpus_per_worker", 1),
        ("max_failures", 0),
        ("evaluation_batch_size", 1),
    ):
        if part[key] < least:
            raise UserError(f"cluster.{key} must be >= {least}, not {part[key]}")
    gpus = part["gpus_per_worker"]
    if gpus is None:
        import torch

        gpus = 1.0 if torch.cuda.is_available() else 0.0
    if gpus < 0 or (gpus % 1 and (gpus > 1 or part["workers_per_trial"] > 1)):
        raise UserError(
            f"cluster.gpus_per_worker={gpus:g}: whole GPUs, or a fraction below 1 with workers_per_trial=1 "
            "(two ranks of one trial cannot share a GPU)"
        )
    return Cluster(
        launcher=part["launcher"],
        address=part["address"],
        cpus=part["cpus"],
        cpus_per_worker=part["cpus_per_worker"],
        gpus_per_worker=gpus,
        max_failures=part["max_failures"],
        report_every_s=part["report_every_s"],
        execution=Execution(part["evaluation_batch_size"], part["checkpoint_every_s"]),
    )


def _load_data(config: Mapping[str, Any]) -> Splits:
    """The data set on the driver, for its size and fingerprint; and every `_target_` checked against its signature."""
    check_arguments(config["dataset"])
    check_arguments(config["model"])
    check_arguments(config["optimizer"], [], lr=1.0)
    loss_named(config["workload"]["loss"])
    splits: Splits = instantiate(config["dataset"]).load()
    metrics = loss_named(config["workload"]["loss"]).metrics
    for key in ("target", "read_beside"):
        target = config["workload"][key]
        if target and target["metric"] not in metrics:
            raise UserError(
                f"workload.{key}.metric {target['metric']!r} is not measured with loss {config['workload']['loss']}: "
                f"use one of {', '.join(metrics)}"
            )
    return splits


def _place(trials: Sequence[Trial], design: Design, cluster: Cluster, precision: str) -> list[PlannedTrial]:
    """Every trial with its topology."""
    plan = design.workload.batch_plan
    return [PlannedTrial(t, Topology(plan(t.arm.total_batch_size), cluster.device, precision)) for t in trials]


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
    if cluster.launcher == "ray" and cluster.address == "local":
        import torch

        from harness.launch.capacity import fit

        gpus = torch.cuda.device_count() if cluster.gpus_per_worker else 0
        fit(cluster, world_sizes, [(float(cluster.cpus or usable_cpus()), float(gpus))])


def _description(opts: Options, design: Design, cluster: Cluster, splits: Splits) -> dict[str, Any]:
    """What study.json says besides its sessions."""
    raw = opts.raw
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
        "overrides": raw.get("overrides", []),
    }


def reopen(folder: StudyFolder) -> tuple[Experiment, Design]:
    """The experiment of a study on disk, rebuilt from its study.json: what reports and exports start from."""
    description = folder.description()
    design = build_design(description["config"], build_workload(description["config"], description["train_examples"]))
    return build_experiment(description["config"], design), design
