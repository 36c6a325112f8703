"""harness advise STUDY [STEP_TIME_STUDY] --devices 8,16,64: which total batch size and LR on how many devices, in how
many hours and at what cost.

    harness advise outputs/tbs_sweep/a --devices 1,2
    harness advise outputs/tbs_sweep/a outputs/step_time/a --devices 8,16,64 --price 2.5 --deadline 6h
    harness advise outputs/tbs_sweep/a outputs/step_time/a --devices 8,64,256 --hardware b200_400gb --json

STUDY tells the epochs, STEP_TIME_STUDY (of +experiment=step_time, also from another machine) the seconds of an update;
without it they are those of the study's own timing pass. Five lines to act on, then the table, then where the figures
are: STUDY/advice, or --output DIR. Every time says what it rests on: measured, interpolated, extrapolated or assumed.
How far to trust it: docs/advise.md. Needs neither torch nor ray.
"""

import argparse
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

from harness.analyse.advice import Advice, Asked, Study, advise
from harness.analyse.advice_section import advice_json, advice_section, five_lines, training_command
from harness.analyse.arms import arm_findings
from harness.analyse.experiment import reopen
from harness.analyse.protocol import protocol
from harness.analyse.results import Records
from harness.analyse.sections import Section
from harness.analyse.timed_steps import combined, other_steps, own_steps
from harness.commands.entry import Parser, add_trust_option, command, make_console, trusting
from harness.config.hardware import hardware_values
from harness.plan.batch import nearest
from harness.plan.errors import UserError
from harness.plan.exit_codes import ExitCode
from harness.record.files import make_folder, write_json, write_whole
from harness.record.study import StudyFolder
from harness.statistics.links import Hardware, Link
from harness.statistics.scaling_out import PAYS

UNITS_S = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
PER_NODE = 8


@command
def main(arguments: Sequence[str]) -> int:
    """Advise on one study."""
    parser = Parser(prog="harness advise", description="Time and cost to the target on N devices.")
    parser.add_argument("study", type=Path, help="study of total batch sizes, e.g. outputs/tbs_sweep/a")
    parser.add_argument(
        "step_times", type=Path, nargs="?", help="study with seconds per update, e.g. outputs/step_time/a"
    )
    add_advice_options(parser)
    parser.add_argument("--json", action="store_true", help="print the advice as JSON, and nothing else")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder to write into; default: STUDY/advice")
    parser.add_argument("--target", type=float, help="another target value, easier than the study's own")
    parser.add_argument("--metric", help="another metric for the target, e.g. loss")
    add_trust_option(parser)
    given = parser.parse_args(arguments)
    if given.devices is None:
        raise UserError("give the numbers of devices to compare, e.g. --devices 8,16,64")
    return trusting("advise", arguments, given, lambda: _run(given))


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


def advice_of(
    study: Path,
    step_times: Path | None,
    asked: Asked,
    trust: bool,
    value: float | None = None,
    metric: str | None = None,
) -> tuple[Advice, str]:
    """The advice on a study, and the command that trains what it chose. Raises UserError."""
    from harness.commands.report import asked_target, check_measured

    folder = StudyFolder(study)
    folder.check_planned()
    experiment, design = reopen(folder, trust)
    records = Records(folder)
    check_measured(records, metric)
    records.read_for(asked_target(design.workload, value, metric))
    arms = list(
        {
            str(trial.arm.settings.to_json()) + trial.arm.label: trial.arm for trial in experiment.trials(records)
        }.values()
    )
    if any(not arm.settings.stop_at_target for arm in arms):
        raise UserError(
            f"the trials of {study} use up their budget by design: advice needs a study that trains to a target, such "
            "as one of +experiment=tbs_sweep"
        )
    rows, results = arm_findings(design, arms, records)
    if not any(row.n for row in rows):
        raise UserError(f"no trial of {study} has finished: nothing can be advised yet")
    other = None
    if step_times is not None:
        if step_times.resolve() == study.resolve():
            raise UserError(f"{step_times} is the same study as {study}: leave out the second, or give another")
        source = StudyFolder(step_times)
        source.description()
        other = other_steps(source, arms)
    timed = combined(own_steps(folder, list(zip(arms, results, strict=True))), other)
    if timed is None:
        raise UserError(
            f"{study} has no seconds per update: run its timing pass (run the same command again to resume), or give "
            "a study of +experiment=step_time as STEP_TIME_STUDY"
        )
    target = records.target or design.workload.target
    asked_study = Study(design, arms, rows, results, protocol(design), f"validation {target}")
    advice = advise(asked_study, timed, asked)
    return advice, training_command(folder.description(), advice.points[advice.chosen])


def _run(given: argparse.Namespace) -> int:
    asked = asked_of(given)
    advice, trained_by = advice_of(given.study, given.step_times, asked, given.trust, given.target, given.metric)
    found = advice_json(advice, trained_by)
    if given.json:
        print(json.dumps(found))
        return ExitCode.DONE
    section = advice_section(advice, trained_by)
    out = given.output or given.study / "advice"
    figures = _write(out, section, found)
    console = make_console()
    from harness.report.table import print_section

    lines = five_lines(advice)
    print_section(console, section, lines)
    for line in [line for line in section.sentences if line not in lines]:
        console.print(line, soft_wrap=True)
    console.print(f"figures: {', '.join(str(figure) for figure in figures)}", soft_wrap=True)
    return ExitCode.DONE


def _write(out: Path, section: Section, found: dict[str, object]) -> list[Path]:
    """The figures, the table and the JSON into a folder."""
    from harness.report.section_figures import figures_of
    from harness.report.write import csv_text

    make_folder(out)
    drawn = []
    for figure in figures_of(section):
        write_whole(out / f"{figure.name}.svg", figure.svg)
        write_whole(out / f"{figure.name}.png", figure.png())
        drawn.append(out / f"{figure.name}.svg")
    for table in section.tables:
        write_whole(out / f"{table.name}.csv", csv_text(table.columns, table.rows))
    write_json(out / "advice.json", found)
    return drawn


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
