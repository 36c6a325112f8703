"""From the composed configuration to the nouns of the other rooms, checked before anything starts (P19)."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from harness.config.experiments import experiment_class
from harness.config.fitting import check_question
from harness.config.privacy import refuse_secrets
from harness.plan.batch import Placement
from harness.plan.coscaling import CoScaling
from harness.plan.design import Design
from harness.plan.duration import Duration
from harness.plan.errors import UserError
from harness.plan.noise_scale import NoiseScale
from harness.plan.scaling import lr_factor
from harness.plan.settings import Averaging, BatchNorm
from harness.plan.target import Target
from harness.plan.tracking import Tracking
from harness.plan.trial import Trial
from harness.plan.workload import Workload

AUTO = "auto"  # per_device_batch_size, found by trying

# Smallest value of the numbers of a cluster; null means "as it comes" where it is allowed.
LEAST = {
    "cpus": 1,
    "workers_per_trial": 1,
    "max_workers_per_trial": 1,
    "cpus_per_worker": 1,
    "gpus_per_worker": 0,
    "per_device_batch_size": 1,
    "evaluation_batch_size": 1,
    "max_failures": 0,
    "checkpoint_every_s": 0,
    "report_every_s": 0,
    "grace_s": 0,
    "node_wait_s": 0,
    "hang_s": 0,
    "timing_min_steps": 1,
    "timing_min_s": 0,
}


class Experiment(Protocol):
    """What a file in experiments/ offers: which trials answer its question, and what they answered."""

    def trials(self, records: Any) -> Sequence[Trial]:
        """Every trial planned given the records so far; a search returns more once earlier ones are in."""
        ...

    def conclude(self, records: Any) -> Any: ...


@runtime_checkable
class Racing(Protocol):
    """An experiment whose trials may stop before their target because their arm can no longer win (plan.racing)."""

    def limits(self, records: Any) -> Mapping[str, float]:
        """By trial_id, the examples from which on a trial that races stops at its next miss; 0: it need not begin."""
        ...


@runtime_checkable
class Sequential(Protocol):
    """An experiment that asks for more once its first trials are in."""

    @property
    def follows(self) -> str:
        """What the first round may lead to, for the plan that dry_run prints."""
        ...


class OnDisk(Protocol):
    """A study's folder, as far as its configuration is concerned."""

    @property
    def path(self) -> Path: ...

    def description(self) -> dict[str, Any]:
        """study.json; UserError where there is none."""
        ...


@dataclass(frozen=True)
class Options:
    """The configuration as the driver uses it; `raw` is what study.json keeps."""

    raw: Mapping[str, Any]
    experiment_name: str
    folder: Path
    dry_run: bool
    allow_mixed_code: bool
    tracking: Tracking


def check_values(config: Mapping[str, Any]) -> None:
    """Refuse whatever needs neither the data nor torch nor Ray to be seen as wrong, so that it is told at once."""
    options(config)
    check_cluster(config["cluster"])
    span = config["workload"]["batch_norm"]["span"]
    if config["cluster"]["per_device_batch_size"] == AUTO and span in ("sync", "per_device"):
        raise UserError(
            f"cluster.per_device_batch_size={AUTO} would let a device's memory decide what workload.batch_norm.span="
            f"{span} computes: give a number, or use span ghost"
        )
    build_design(config, build_workload(config, train_examples=1))  # the data's own size is not known yet


def options(config: Mapping[str, Any]) -> Options:
    name, study = config["choices"]["experiment"], str(config["study"])
    if not study or study in (".", "..") or "/" in study:
        raise UserError(f"study must be a plain folder name, not {study!r}")
    refuse_secrets(config, os.environ)
    tracking = Tracking(**config["tracking"])
    folder = Path(config["output_dir"]).expanduser().resolve() / name / study
    return Options(config, name, folder, config["dry_run"], config["allow_mixed_code"], tracking)


def check_cluster(part: Mapping[str, Any]) -> None:
    """Raises UserError for values that no cluster could take."""
    if part["launcher"] not in ("ray", "inline"):
        raise UserError(f"cluster.launcher must be ray or inline, not {part['launcher']!r}")
    host, _, port = part["address"].rpartition(":")
    if part["address"] != "local" and not (host and port.isdigit()):
        raise UserError(f"cluster.address must be 'local' or host:port, not {part['address']!r}")
    for key, least in LEAST.items():
        if key == "per_device_batch_size" and isinstance(part[key], str):
            if part[key] != AUTO:
                raise UserError(f"cluster.{key} must be a number of examples, null or {AUTO}, not {part[key]!r}")
        elif part[key] is not None and not (math.isfinite(part[key]) and part[key] >= least):
            raise UserError(f"cluster.{key} must be >= {least}, not {part[key]}")
    if part["max_workers_per_trial"] is not None and part["workers_per_trial"] is not None:
        raise UserError(
            f"cluster.max_workers_per_trial={part['max_workers_per_trial']} bounds what workers_per_trial=null gives: "
            "leave it out where cluster.workers_per_trial is a number"
        )
    gpus = part["gpus_per_worker"] or 0.0
    if gpus % 1 and (gpus > 1 or part["workers_per_trial"] != 1):
        raise UserError(
            f"cluster.gpus_per_worker={gpus:g}: whole GPUs, or a fraction below 1 with workers_per_trial=1 "
            "(two ranks of one trial cannot share a GPU)"
        )
    if 0 < gpus < 1 and not math.isclose(1 / gpus, trials := round(1 / gpus), rel_tol=1e-3):
        raise UserError(
            f"cluster.gpus_per_worker={gpus:g} leaves a part of every GPU unused: trials share one by 1/n, "
            f"e.g. {1 / trials:.4g} for {trials} of them"
        )


def build_workload(config: Mapping[str, Any], train_examples: int) -> Workload:
    """The workload of a configuration; `train_examples` is the size of its loaded training split."""
    part = config["workload"]
    return Workload(
        name=part["name"],
        dataset=config["dataset"],
        model=config["model"],
        loss=part["loss"],
        optimizer_name=config["choices"]["optimizer"],
        optimizer=_without_lr(config["optimizer"]),
        schedule=config["schedule"],
        train_examples=train_examples,
        target=Target(**part["target"]),
        budget=Duration.parse(part["budget"]),
        base_batch_size=part["base_batch_size"],
        base_lr=part["base_lr"],
        evaluate_every_examples=part["evaluate_every_examples"],
        exact_grid=part["exact_grid"],
        batch_norm=BatchNorm(**part["batch_norm"]),
        averaging=Averaging(**part["averaging"]),
        parameter_groups=config["parameter_groups"],
        co_scaling=CoScaling(**config["lr_scaling"]["co_scaling"]),
        clip_norm=part["clip_norm"],
        stop_at_target=part["stop_at_target"],
        noise_scale=NoiseScale(**part.get("noise_scale", {})),  # absent in studies older than it
        placement=build_placement(config["cluster"]),
        read_beside=Target(**part["read_beside"]) if part["read_beside"] else None,
    )


def build_placement(part: Mapping[str, Any]) -> Placement:
    """`auto` counts as null, until the session has found the number."""
    cap = None if part["per_device_batch_size"] == AUTO else part["per_device_batch_size"]
    return Placement(part["workers_per_trial"], cap, part["max_workers_per_trial"])


def _without_lr(optimizer: Mapping[str, Any]) -> Mapping[str, Any]:
    if "lr" in optimizer:
        raise UserError("optimizer.lr is set by the LR rule: give workload.base_lr at workload.base_batch_size instead")
    return optimizer


def build_design(config: Mapping[str, Any], workload: Workload) -> Design:
    rules, power = tuple(config["lr_scaling"]["rules"]), config["lr_scaling"]["power"]
    if len(set(rules)) < len(rules):
        raise UserError(f"lr_scaling.rules must differ, not {list(rules)}")
    if "adascale" in rules and len(rules) > 1:
        raise UserError(
            "lr_scaling.rules: adascale is a controller that measures while it trains, no rule to compare with others: "
            "give it a study of its own, lr_scaling=adascale study=NAME"
        )
    for rule in rules:
        lr_factor(rule, 1.0, power)  # an unknown rule, or one without its exponent
    return Design(workload, rules, power, tuple(config["seeds"]))


def build_experiment(config: Mapping[str, Any], design: Design) -> Experiment:
    """The experiment a configuration names, constructed with its own parameters."""
    question = dict(config["question"])
    target = str(question.pop("_target_", ""))
    make = experiment_class(target)
    check_question(make, question)
    return make(design, **question)


def reopen(folder: OnDisk) -> tuple[Experiment, Design]:
    """The experiment of a study on disk, rebuilt from its study.json: what reports and exports start from.

    Raises UserError where the folder is no study, or one whose configuration this version does not know.
    """
    description = folder.description()
    try:
        config = description["config"]
        design = build_design(config, build_workload(config, description["train_examples"]))
        return build_experiment(config, design), design
    except KeyError as error:
        raise UserError(
            f"study {folder.path.name} cannot be read by this version: its configuration has no {error} "
            "(use the version that made it)"
        ) from error
