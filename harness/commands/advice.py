"""What `harness advise` and `harness report --devices` share: their options, and the advice on a study on disk."""

import argparse
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.analyse.advice import Advice, Asked, Study, advise
from harness.analyse.advice_section import training_command
from harness.analyse.arms import arm_findings
from harness.analyse.experiment import Experiment
from harness.analyse.protocol import protocol
from harness.analyse.results import Records
from harness.analyse.timed_steps import TimedSteps, combined, other_steps, own_steps
from harness.config.hardware import hardware_values
from harness.plan.batch import nearest
from harness.plan.design import Design
from harness.plan.errors import UserError
from harness.plan.trial import Arm
from harness.record.study import StudyFolder
from harness.statistics.links import Hardware, Link
from harness.statistics.scaling_out import PAYS

UNITS_S = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
PER_NODE = 8


def add_advice_options(parser: argparse.ArgumentParser) -> None:
    """What `harness advise` and `harness report` both take."""
    parser.add_argument("--devices", metavar="8,16,64", help="numbers of devices to compare, whole nodes beyond one")
    parser.add_argument(
        "--per-node", type=int, metavar="8", help="devices of a node; default: 8, or as --hardware says"
    )
    parser.add_argument("--price", type=float, metavar="2.5", help="price of a device-hour, in any currency")
    parser.add_argument("--deadline", metavar="6h", help="longest time: 45s, 90min, 6h or 2d")
    parser.add_argument("--max-cost", type=float, metavar="500", help="budget, in the currency of --price")
    parser.add_argument(
        "--pays", type=float, default=PAYS, metavar="0.5", help="least fall of log time per log devices that still pays"
    )
    parser.add_argument("--mtbf", type=float, metavar="HOURS", help="mean hours between two failures of one device")
    parser.add_argument("--hardware", metavar="NAME", help="table of links, see conf/hardware, or a file NAME.yaml")


def given_advice_options(given: argparse.Namespace) -> list[str]:
    """The options that only matter with --devices, of those given."""
    names = ("per_node", "price", "deadline", "max_cost", "mtbf", "hardware", "step_times")
    found = [f"--{name.replace('_', '-')}" for name in names if getattr(given, name, None) is not None]
    return [*found, *(["--pays"] if given.pays != PAYS else [])]


def asked_of(given: argparse.Namespace) -> Asked:
    """The options as numbers; UserError for any that makes no sense."""
    hardware = None if given.hardware is None else _hardware(given.hardware)
    per_node = given.per_node or (hardware.per_node if hardware else PER_NODE)
    if given.per_node is not None and given.per_node < 1:
        raise UserError(f"--per-node must be >= 1, not {given.per_node}")
    devices = _devices(given.devices, per_node)
    price = given.price if given.price is not None or hardware is None else hardware.price_per_device_hour
    for option, value in (
        ("--price", price),
        ("--max-cost", given.max_cost),
        ("--pays", given.pays),
        ("--mtbf", given.mtbf),
    ):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UserError(f"{option} must be a number > 0, not {value:g}")
    if given.pays > 1:
        raise UserError(f"--pays must be <= 1, which perfect scaling has, not {given.pays:g}")
    if given.max_cost is not None and price is None:
        raise UserError("--max-cost needs --price, the price of a device-hour")
    deadline = None if given.deadline is None else _seconds(given.deadline)
    return Asked(devices, per_node, price, deadline, given.max_cost, given.pays, given.mtbf, hardware)


@dataclass(frozen=True)
class StudyRead:
    """A study on disk, and what it is read for."""

    folder: StudyFolder
    experiment: Experiment
    design: Design
    records: Records


def advice_of(read: StudyRead, step_times: Path | None, asked: Asked) -> tuple[Advice, str]:
    """The advice on a study, and the command that trains what it chose. Raises UserError."""
    design, records, study = read.design, read.records, read.folder.path
    trials = read.experiment.trials(records)
    arms = list({f"{trial.arm.label} {trial.arm.settings.to_json()}": trial.arm for trial in trials}.values())
    if any(not arm.settings.stop_at_target for arm in arms):
        raise UserError(
            f"the trials of {study} use up their budget by design: advice needs a study that trains to a target, such "
            "as one of +experiment=tbs_sweep"
        )
    rows, results = arm_findings(design, arms, records)
    if not any(row.n for row in rows):
        raise UserError(f"no trial of {study} has finished: nothing can be advised yet")
    other = None if step_times is None else _other(step_times, study, arms)
    timed = combined(own_steps(read.folder, list(zip(arms, results, strict=True))), other)
    if timed is None:
        raise UserError(
            f"{study} has no seconds per update: run the same command again to resume with its timing pass, or give a "
            "study of +experiment=step_time"
        )
    target = records.target or design.workload.target
    advice = advise(Study(design, arms, rows, results, protocol(design), f"validation {target}"), timed, asked)
    return advice, training_command(read.folder.description(), advice.points[advice.chosen])


def _other(step_times: Path, study: Path, arms: Sequence[Arm]) -> TimedSteps:
    if step_times.resolve() == study.resolve():
        raise UserError(f"{step_times} is the same study as {study}: leave out the second, or give another")
    folder = StudyFolder(step_times)
    folder.description()
    return other_steps(folder, arms)


def _devices(text: str, per_node: int) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,9}", word) and int(word) >= 1 for word in words):
        raise UserError(f"--devices must be numbers >= 1 like 8,16,64, not {text!r}")
    numbers = [int(word) for word in words]
    if len(set(numbers)) < len(numbers):
        raise UserError(f"--devices must differ, not {text}")
    for number in numbers:
        if number > per_node and number % per_node:
            raise UserError(
                f"--devices {number} is not a whole number of nodes of {per_node}: the nearest valid values are "
                f"{nearest(number, per_node)} (or give --per-node)"
            )
    return tuple(sorted(numbers))


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s?(s|min|h|d)", text.strip())
    if found is None or not float(found[1]):
        raise UserError(f"--deadline must be like 45s, 90min, 6h or 2d, not {text!r}")
    return float(found[1]) * UNITS_S[found[2]]


def _hardware(name: str) -> Hardware:
    values = hardware_values(name)
    links = {level: None if values[level] is None else Link(**values[level]) for level in ("inside", "across")}
    inside = links["inside"]
    assert inside is not None
    price = values["price_per_device_hour"]
    return Hardware(values["name"], str(values["source"]), values["per_node"], inside, links["across"], price)
