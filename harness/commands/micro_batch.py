"""cluster.per_device_batch_size=auto: the number that it comes to, before anything is planned with it."""

from rich.console import Console

from harness.analyse.experiment import build_experiment
from harness.commands.study_progress import StudyProgress
from harness.config.build import build_design
from harness.config.configuration import stored_micro_batch
from harness.launch.micro_batch import find_cap
from harness.plan.cluster import AUTO


def settle_micro_batch(progress: StudyProgress, console: Console) -> StudyProgress:
    """The same study with `auto` replaced by its number, which study.json then keeps as if it had been given."""
    if progress.config.cluster.per_device_batch_size != AUTO:
        return progress
    config = progress.config.with_micro_batch(_found(progress, console))
    design = build_design(config, progress.design.workload.train_examples)
    return StudyProgress(config, progress.cluster, design, build_experiment(config, design))


def _found(progress: StudyProgress, console: Console) -> int | None:
    """What the study already has, or else what fits on a worker; None on CPUs and for a plan that is only shown."""
    if progress.folder.exists:
        return stored_micro_batch(progress.folder)
    if progress.cluster.device == "cpu":
        return None
    if progress.config.dry_run:
        console.print("per_device_batch_size=auto is found when the study starts; shown here without accumulation")
        return None
    cap = find_cap(progress.plan(), progress.cluster)
    console.print(f"per_device_batch_size=auto: micro-batches of up to {cap} examples fit on a worker", highlight=False)
    return cap
