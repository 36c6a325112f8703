"""What is rejected before Ray starts: data, arguments, schedules, and a cluster too small for the plan (P19)."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from harness.analyse.experiment import build_question
from harness.analyse.own_columns import made_up, try_columns
from harness.commands.study_progress import StudyProgress, planned_trials
from harness.config.build import build_design
from harness.config.configuration import Configuration
from harness.datasets.examples import Splits, check_splits, declared_splits
from harness.launch.capacity import fit
from harness.launch.devices import check_slices, gpus_here, nodes_of
from harness.launch.ray_probe import NodeResources
from harness.launch.tasks import Cluster
from harness.objectives.metrics.listed import made_metric
from harness.objectives.metrics.own import declared_kind
from harness.objectives.objective import objective_named
from harness.plan.coscaling import check_decays
from harness.plan.design import Design
from harness.plan.errors import UserError
from harness.plan.execution import Speed
from harness.plan.imports import user_code
from harness.plan.instantiate import check_arguments, instantiate, instantiate_as, misfit
from harness.plan.metrics import metric_name
from harness.plan.schedules import Schedule
from harness.plan.target import check_possible
from harness.plan.trial import PlannedTrial
from harness.plan.workload import WorkloadConfig
from harness.record.study import unwritable
from harness.report.plan_table import Constant
from harness.train.metric_checks import constant_scores
from harness.train.rehearsal import rehearse, sample_outputs


def check_slurm_job(config: Configuration) -> None:
    """Raises UserError for a configuration for Slurm that is run outside a Slurm job."""
    if config.cluster.slurm is not None and not config.dry_run and "SLURM_JOB_ID" not in os.environ:
        raise UserError(
            "cluster=slurm outside a Slurm job would run on this machine alone: submit the same arguments with "
            "`harness submit`, or use cluster=local here"
        )


def load_data(config: Configuration) -> Splits:
    """Check every `_target_` against its signature, and load the data set for its size and fingerprint; for a dry run,
    only if it does not declare its sizes or can be loaded at once."""
    check_arguments(config.dataset)
    check_arguments(config.model)
    check_arguments(config.optimizer, [], lr=1.0)
    objective_named(config.workload.loss)
    check_own_metrics(config.workload)
    name = config.dataset["_target_"]
    with user_code(f"dataset {name} cannot be loaded", lambda: misfit("dataset", config.dataset)):
        dataset = instantiate(config.dataset)
        splits = (declared_splits(dataset) if config.dry_run else None) or dataset.load()
    try:
        checked = check_splits(splits)
    except UserError as error:
        raise UserError(f"dataset {name}: {error}") from error
    return checked


def check_own_metrics(workload: WorkloadConfig) -> None:
    """Raises UserError for a metric by `_target_` that cannot be made, or whose declarations a target contradicts."""
    for metric in workload.metrics:
        if isinstance(metric, str):
            continue
        name = metric_name(metric)
        kind = declared_kind(made_metric(metric))
        for key, target in workload.targets.items():
            if target.metric == name and kind.mode not in ("", target.mode):
                raise UserError(f"{key}: metric {name} needs mode={kind.mode}, not mode={target.mode}")
            if target.metric == name:
                check_possible(key, target, kind.low, kind.high)


def load_question(config: Configuration) -> tuple[Splits, Design, object]:
    """The data, what an experiment plans with, and the question, each checked; UserError as for each of them."""
    splits = load_data(config)
    design = build_design(config, len(splits.train))
    return splits, design, build_question(config, design)


def check_arm_columns(progress: StudyProgress) -> None:
    """Raises UserError unless the user's own columns have free names and give a value for every planned arm."""
    columns = progress.design.arm_columns
    if not columns:
        return
    arms = {trial.arm.label: trial.arm for trial in planned_trials(progress.experiment, progress.records)}
    try_columns(columns, arms.values())
    from harness.report.write import column_names  # with it comes matplotlib, which planning does not wait for

    taken = {_folded(name) for arm in arms.values() for name in column_names(made_up(arm, reached=True))}
    for column in columns:
        if _folded(column.name) in taken:
            raise UserError(f"arm_columns: {column.path} has the name of a column that is already there: rename it")


def _folded(name: str) -> str:
    return name.replace("_", " ").casefold()


def check_study(
    progress: StudyProgress, splits: Splits, nodes: Sequence[NodeResources] | None = None
) -> tuple[list[PlannedTrial], list[PlannedTrial]]:
    """Every trial asked for so far, and those of them that are unfinished. Raises UserError unless all can be built,
    the unfinished ones fit on the cluster (a finished study can be reported anywhere) and the folder can be written.

    `nodes`: where they will run; None: those of the cluster as it is now.
    """
    check_arm_columns(progress)
    planned = progress.plan()
    unfinished = [p for p in planned if not progress.is_finished(p)]
    check_schedules(planned)
    check_reachable(progress.design, planned)
    rehearse(planned, splits, progress.cluster.execution)
    if unfinished:
        config, sizes = progress.config.cluster, {p.topology.batch.world_size for p in unfinished}
        nodes = nodes_of(config) if nodes is None else nodes
        check_cluster_size(progress.cluster, sizes, nodes, of_slurm=config.slurm is not None)
    check_folder(progress.config.folder)
    return planned, unfinished


def constant_of(planned: PlannedTrial, splits: Splits, speed: Speed) -> Constant | None:
    """What a constant output scores; None where the model's outputs are not known, as it runs on GPUs only."""
    outputs = sample_outputs(planned, splits, speed)
    return None if outputs is None else Constant(*constant_scores(planned.trial.arm.settings, outputs, splits))


def check_folder(folder: Path) -> None:
    """Raises UserError unless the study's folder can be created, or written where it exists; creates nothing."""
    try:
        present = next(path for path in (folder, *folder.parents) if path.exists() or path.is_symlink())
        if not present.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(present, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise unwritable(folder, error) from error


def check_schedules(planned: Sequence[PlannedTrial]) -> None:
    """Construct every arm's schedule once, so that its constructor rejects bad values before anything starts."""
    for settings in {p.trial.arm.label: p.trial.arm.settings for p in planned}.values():
        check_arguments(settings.schedule)
        target = settings.schedule["_target_"]
        with user_code(f"schedule {target} fails"):
            instantiate_as(Schedule, "schedule", settings.schedule).lr_factor(0)
        mode = settings.schedule.get("mode")
        if mode in ("min", "max") and mode != settings.target.mode:
            raise UserError(
                f"schedule.mode={mode} contradicts the target's metric {settings.target.metric}, whose mode is "
                f"{settings.target.mode}: use schedule.mode={settings.target.mode}"
            )


def check_reachable(design: Design, planned: Sequence[PlannedTrial]) -> None:
    """Raises UserError for values with which no trial could reach its target: momentum and betas from 1 on, an LR that
    falls as TBS grows, a warm-up longer than the budget, more confirming evaluations than the budget has.

    An experiment may try shorter budgets than the workload's, on its own responsibility.
    """
    workload = design.workload
    for rule in design.rules:
        if rule.exponent is not None and rule.exponent < 0 and rule.name.startswith("power("):
            raise UserError(f"lr_scaling.power must be >= 0, not {rule.exponent:g}: a larger batch needs no smaller LR")
    for settings in {p.trial.arm.label: p.trial.arm.settings for p in planned}.values():
        check_decays(settings.optimizer)
        if settings.budget_examples < workload.budget_examples:
            continue
        workload.check_confirmation(settings.total_batch_size)
        warmup, updates = settings.schedule.get("warmup", 0), settings.budget_steps * (settings.adascale_ratio or 1)
        if warmup > updates:
            raise UserError(
                f"schedule.warmup of {warmup} updates at TBS {settings.total_batch_size} is longer than the budget of "
                f"{updates} updates: use a shorter warm-up or a larger workload.budget"
            )


def check_cluster_size(
    cluster: Cluster, world_sizes: set[int], nodes: Sequence[NodeResources], of_slurm: bool = False
) -> None:
    """Raises UserError unless the nodes have room for the trials; called before the study folder exists."""
    if cluster.device == "cuda" and cluster.address == "local":
        check_slices(world_sizes)
    if cluster.launcher == "inline" and not of_slurm:
        check_gpus(cluster, max(world_sizes))  # ranks may share CPUs
        return
    try:
        fit(cluster, world_sizes, nodes)
    except UserError as error:
        if not of_slurm:
            raise
        raise UserError(f"{error}, or raise cluster.slurm.nodes, cpus_per_node or gpus_per_node") from error


def check_gpus(cluster: Cluster, world_size: int) -> None:
    """Raises UserError unless this machine has the GPUs of one trial."""
    gpus = gpus_here() if cluster.gpus_per_worker else 0
    if (needed := cluster.gpus_per_worker * world_size) > gpus:
        raise UserError(
            f"a trial needs {needed:g} GPU{'s' * (needed > 1)} (cluster.gpus_per_worker={cluster.gpus_per_worker:g}), "
            f"but torch sees {gpus:g} here: use cluster.gpus_per_worker=0 to train on CPUs, or a machine with GPUs"
        )
