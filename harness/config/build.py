"""From a configuration to plan's nouns, checked before anything starts (P19)."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.config.configuration import Configuration
from harness.plan.arm_columns import arm_columns
from harness.plan.cluster import AUTO
from harness.plan.design import Design
from harness.plan.errors import UserError
from harness.plan.imports import EXPERIMENTS
from harness.plan.loss_choice import couples_examples
from harness.plan.scaling import Rule, rule_named
from harness.plan.workload import Workload

LONGEST_NAME = 200  # bytes of a study's name; file systems take 255, and W&B and Slurm put a word before it


def check_values(config: Configuration) -> None:
    """Refuse whatever can be seen to be wrong without the data, torch and Ray; each part has checked itself already."""
    _check_places(config.study, config.output_dir)
    _check_distinct(config.question)
    config.workload.check_targets()
    span = config.workload.batch_norm.span
    if config.cluster.per_device_batch_size == AUTO and span in ("sync", "per_device"):
        raise UserError(
            f"cluster.per_device_batch_size={AUTO} would let a device's memory decide what workload.batch_norm.span="
            f"{span} computes: give a number, or use span ghost"
        )
    if config.cluster.per_device_batch_size == AUTO and couples_examples(config.workload.loss):
        raise UserError(
            f"cluster.per_device_batch_size={AUTO} would let a device's memory decide what a loss with couples: batch "
            "computes: give a number"
        )
    build_design(config, train_examples=1)  # the data's own size is not known yet


def _check_places(study: str, output_dir: str) -> None:
    """Raises UserError unless the study has the name of a folder, and output_dir can be a path."""
    is_name = study.isprintable() and study.strip() == study and "/" not in study and study not in ("", ".", "..")
    if not is_name:
        raise UserError(f"study must be a plain folder name, not {study!r}")
    if len(os.fsencode(study)) > LONGEST_NAME:
        raise UserError(
            f"study must be a folder name of at most {LONGEST_NAME} bytes, not of {len(os.fsencode(study))}"
        )
    if not output_dir.strip() or not output_dir.isprintable():
        raise UserError(f"output_dir must be the path of a folder, such as outputs, not {output_dir!r}")
    try:
        Path(output_dir).expanduser()
    except RuntimeError as error:
        raise UserError(f"output_dir={output_dir}: there is no such user; give the whole path") from error


def _check_distinct(question: Mapping[str, Any]) -> None:
    """Raises UserError for a value that one of our own questions is given twice."""
    if not str(question.get("_target_")).startswith(f"{EXPERIMENTS}."):
        return
    for key, values in question.items():
        texts = [str(value) for value in values] if isinstance(values, list) else []
        if len(set(texts)) < len(texts):
            raise UserError(f"question.{key} must differ, not {values}")


def build_workload(config: Configuration, train_examples: int) -> Workload:
    """The workload of a configuration; `train_examples` is the size of its loaded training split."""
    return Workload(
        **vars(config.workload),
        dataset=config.dataset,
        model=config.model,
        optimizer_name=config.optimizer_name,
        optimizer=_without_lr(config.optimizer),
        schedule=config.schedule,
        train_examples=train_examples,
        parameter_groups=config.raw.get("parameter_groups", {}),  # as written: part of every trial's identity
        co_scaling=config.lr_scaling.co_scaling,
        placement=config.cluster.placement,
    )


def _without_lr(optimizer: Mapping[str, Any]) -> Mapping[str, Any]:
    if "lr" in optimizer:
        raise UserError("optimizer.lr is set by the LR rule: give workload.base_lr at workload.base_batch_size instead")
    return optimizer


def build_design(config: Configuration, train_examples: int, known_rules: Mapping[str, Rule] | None = None) -> Design:
    """What an experiment plans with; `train_examples` as for the workload. Rules that are not among `known_rules`, by
    their names in the configuration, are looked up and, if they are the user's own, imported."""
    workload, known = build_workload(config, train_examples), known_rules or {}
    rules = tuple(known.get(name) or rule_named(name, config.lr_scaling.power) for name in config.lr_scaling.rules)
    return Design(workload, rules, tuple(config.seeds), arm_columns(config.arm_columns))
