"""What is rejected before Ray starts: data, arguments, schedules, and a cluster too small for the plan (P19)."""

import os
from collections.abc import Sequence

from harness.analyse.own_columns import made_up, try_columns
from harness.commands.study_progress import StudyProgress
from harness.config.configuration import Configuration
from harness.datasets.examples import Splits
from harness.launch.capacity import fit
from harness.launch.ray_cluster import running_nodes
from harness.launch.tasks import Cluster
from harness.plan.errors import UserError, one_line
from harness.plan.trial import PlannedTrial
from harness.record.provenance import usable_cpus
from harness.train.instantiate import check_arguments, instantiate
from harness.train.losses import loss_named
from harness.train.rehearsal import rehearse


def check_slurm_job(config: Configuration) -> None:
    """Raises UserError for a configuration for Slurm that is run outside a Slurm job."""
    if config.cluster.slurm is not None and not config.dry_run and "SLURM_JOB_ID" not in os.environ:
        raise UserError(
            "cluster=slurm outside a Slurm job would run on this machine alone: submit the same arguments with "
            "`harness submit`, or use cluster=local here"
        )


def load_data(config: Configuration) -> Splits:
    """Check every `_target_` against its signature, and load the data set for its size and fingerprint."""
    check_arguments(config.dataset)
    check_arguments(config.model)
    check_arguments(config.optimizer, [], lr=1.0)
    metrics = loss_named(config.workload.loss).metrics
    name = config.dataset["_target_"]
    try:
        splits: Splits = instantiate(config.dataset).load()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"dataset {name} cannot be loaded: {one_line(error)}") from error
    for split in ("train", "validation", "test"):
        if not len(getattr(splits, split)):
            raise UserError(f"dataset {name} has no {split} examples: every split needs at least one")
    for key, target in (("target", config.workload.target), ("read_beside", config.workload.read_beside)):
        if target is not None and target.metric not in metrics:
            raise UserError(
                f"workload.{key}.metric {target.metric!r} is not measured with loss {config.workload.loss}: "
                f"choose one of {', '.join(metrics)}"
            )
    return splits


def check_arm_columns(progress: StudyProgress) -> None:
    """Raises UserError unless the user's own columns have free names and give a value for every planned arm."""
    columns = progress.design.arm_columns
    if not columns:
        return
    arms = {trial.arm.label: trial.arm for trial in progress.experiment.trials(progress.records)}
    try_columns(columns, arms.values())
    from harness.report.write import column_names  # with it comes matplotlib, which planning does not wait for

    taken = {_folded(name) for arm in arms.values() for name in column_names(made_up(arm, reached=True))}
    for column in columns:
        if _folded(column.name) in taken:
            raise UserError(f"arm_columns: {column.path} has the name of a column that is already there: rename it")


def _folded(name: str) -> str:
    return name.replace("_", " ").casefold()


def check_plan(
    planned: Sequence[PlannedTrial], unfinished: Sequence[PlannedTrial], splits: Splits, cluster: Cluster
) -> None:
    """Raises UserError unless every trial can be built and the unfinished ones fit on the cluster; a finished study can
    be reported anywhere."""
    check_schedules(planned)
    rehearse(planned, splits, cluster.execution)
    if unfinished:
        check_cluster_size(cluster, {p.topology.batch.world_size for p in unfinished})


def check_schedules(planned: Sequence[PlannedTrial]) -> None:
    """Construct every arm's schedule once, so that its constructor rejects bad values before anything starts."""
    for settings in {p.trial.arm.label: p.trial.arm.settings for p in planned}.values():
        check_arguments(settings.schedule)
        instantiate(settings.schedule)
        mode = settings.schedule.get("mode")
        if mode in ("min", "max") and mode != settings.target.mode:
            raise UserError(
                f"schedule.mode={mode} contradicts the target's metric {settings.target.metric}, whose mode is "
                f"{settings.target.mode}: use schedule.mode={settings.target.mode}"
            )


def check_cluster_size(cluster: Cluster, world_sizes: set[int]) -> None:
    """Raises UserError unless the cluster answers and is large enough; called before the study folder exists."""
    if cluster.launcher == "ray" and cluster.address == "local":
        import torch

        gpus = torch.cuda.device_count() if cluster.gpus_per_worker else 0
        fit(cluster, world_sizes, [(float(cluster.cpus or usable_cpus()), float(gpus))])
    elif cluster.launcher == "ray":
        fit(cluster, world_sizes, running_nodes(cluster.address))
