"""Opens a session's study: to lead it, or to help the driver that leads it."""

from typing import Any

from harness.analyse.planned_rules import described_rules
from harness.commands.study_progress import StudyProgress
from harness.config.configuration import Configuration
from harness.datasets.examples import Splits
from harness.launch.devices import gpus_here, listed_here
from harness.launch.node_gpus import UNKNOWN
from harness.launch.tasks import Cluster
from harness.plan.design import Design
from harness.plan.errors import UserError
from harness.record.code_fingerprint import code_fingerprint
from harness.record.examination import find_examination
from harness.record.gpus import counted_names
from harness.record.provenance import cpu_model, git_state, usable_cpus, versions
from harness.record.study import Study, check_same
from harness.train.machine import gpu_driver, gpu_libraries


def open_study(progress: StudyProgress, splits: Splits, take_over: bool = False) -> Study:
    """Create or resume the study; or join it, where it is shared and another driver leads it. UserError as for both."""
    config, description = progress.config, _description(progress, splits)
    try:
        return Study.open(config.folder, description, config.allow_mixed_code, take_over)
    except UserError:
        if not config.cluster.share_study or not progress.folder.is_being_run:
            raise
        return Study.join(config.folder, description, config.allow_mixed_code)


def check_resumes(progress: StudyProgress, splits: Splits) -> None:
    """Raises UserError if the study exists and could not be resumed: another experiment's, or made by other code."""
    if progress.folder.exists:
        config = progress.config
        check_same(
            config.folder, progress.folder.description(), _description(progress, splits), config.allow_mixed_code
        )


def _gpus(config: Configuration, cluster: Cluster) -> dict[str, str]:
    """The GPUs of this machine where trials train on them, their driver and libraries; those of a cluster's nodes are
    added once these have answered."""
    if cluster.device == "cpu" or not config.cluster.runs_here:
        return {}
    gpus = counted_names([gpu.name for gpu in listed_here()[: gpus_here()]])
    return {"gpu": gpus or UNKNOWN, "driver": gpu_driver(), **gpu_libraries()}


def _description(progress: StudyProgress, splits: Splits) -> dict[str, Any]:
    return described(progress.config, progress.design, progress.cluster, splits)


def described(config: Configuration, design: Design, cluster: Cluster, splits: Splits) -> dict[str, Any]:
    """What study.json says besides its sessions."""
    workload = design.workload
    outputs, workload_code = config.folder.parents[1], code_fingerprint(config.trial_specs)
    return {
        "experiment": config.experiment_name,
        "name": config.study,
        "config": config.raw,
        "lr_rules": described_rules(design.rules),
        "train_examples": len(splits.train),
        "code_fingerprint": code_fingerprint(config.specs),
        "data_fingerprint": splits.fingerprint,
        "git": git_state(),
        "versions": versions(),
        "hardware": {"cpu": cpu_model(), "cpus": usable_cpus(), "device": cluster.device, **_gpus(config, cluster)},
        "doctor": find_examination(outputs, workload, workload_code),
        "overrides": config.overrides,
    }
