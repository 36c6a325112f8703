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
from collections.abc import Sequence
from pathlib import Path

from harness.analyse.advice_section import advice_json, advice_section, five_lines
from harness.analyse.experiment import reopen
from harness.analyse.results import Records
from harness.analyse.sections import Section
from harness.commands.advice import StudyRead, add_advice_options, advice_of, asked_of, given_advice_options
from harness.commands.entry import Parser, add_trust_option, command, make_console, trusting
from harness.commands.report import asked_target, check_measured
from harness.plan.errors import UserError
from harness.plan.exit_codes import ExitCode
from harness.record.files import make_folder, write_json, write_whole
from harness.record.study import StudyFolder


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
        needing = given_advice_options(given)
        raise UserError(f"{needing[0] + ' needs' if needing else 'advice needs'} --devices, e.g. --devices 8,16,64")
    return trusting("advise", arguments, given, lambda: _run(given))


def _run(given: argparse.Namespace) -> int:
    asked = asked_of(given)
    folder = StudyFolder(given.study)
    folder.check_planned()
    experiment, design = reopen(folder, given.trust)
    records = Records(folder)
    check_measured(records, given.metric)
    records.read_for(asked_target(design.workload, given.target, given.metric))
    advice, trained_by = advice_of(StudyRead(folder, experiment, design, records), given.step_times, asked)
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
    for line in [*(line for line in section.sentences[:-1] if line not in lines), f"Command: {trained_by}"]:
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
